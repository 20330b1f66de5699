# SPDX-License-Identifier: Apache-2.0
"""Documents from text files: .txt and .jsonl, plain or compressed with gzip (.txt.gz, .jsonl.gz).

- .txt: blank lines separate documents. A file without any blank line has one document per line.
- .jsonl: each line is an object whose key "text" holds one document; blank lines are skipped.

A file with any other ending is read as .txt. Text is UTF-8 (a byte-order mark is ignored); `.gz`
alone decides that a file is decompressed. A line has at most `MAX_LINE_BYTES`.

Whatever is wrong is an error that names the file and the place in it, counted in the decompressed
bytes. A line that is wrong may be skipped under a budget (`documents.SkipBudget`), with the whole
document that it is in; a file that cannot be read to its end is always an error. Every line is counted
as read or as skipped.

Files are read line by line: one line is held in memory, and the documents.
"""

from __future__ import annotations

import codecs
import dataclasses
import functools
import glob
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from io import BufferedReader
from typing import NamedTuple

import tqdm
from absl import logging

from switch_t5 import errors
from switch_t5.data import documents as documents_lib
from switch_t5.storage import files, transfers
from switch_t5.storage.location import is_remote, location

TEXT_KEY = "text"
MAX_LINE_BYTES = 8 * 2**20
_PASSED_BYTES = 2**20  # of a longer line, at a time
_FORMATS = "a .txt or .jsonl file, or one of these compressed as .gz"


@dataclasses.dataclass(frozen=True)
class TextFiles:
  """Text files, as a source of documents.

  Attributes:
    paths: the files, as `find_files` returns them.
  """

  paths: tuple[str, ...]

  def documents(self, budget: documents_lib.SkipBudget | None = None) -> dict[str, list[str]]:
    """Reads all files; returns the documents of each split. Shows a progress bar on a terminal.

    Args:
      budget: of faulty documents; none may be skipped if it is not given.

    Raises:
      DataError: a file is empty, malformed, or cannot be read.
    """
    budget = budget or documents_lib.SkipBudget()
    paths = tqdm.tqdm(self.paths, desc="text files", unit="file", disable=None)
    texts = [document for path in paths for document in read_documents(path, budget)]
    return documents_lib.split_and_shuffle(texts)

  def provenance(self) -> dict[str, str]:
    """Returns the SHA-256 of each file by its name (by its path where names repeat).

    It reads every file (about a second per gigabyte; of object storage once in a process), so that no
    edit goes unnoticed and a copy of the files elsewhere is recognised as the same text.
    """
    names = [os.path.basename(path) for path in self.paths]
    if len(set(names)) < len(names):
      names = list(self.paths)
    digests = [_sha256_of_object(path) if is_remote(path) else _sha256(path) for path in self.paths]
    return dict(zip(names, digests, strict=True))


def find_files(patterns: str | Sequence[str]) -> tuple[str, ...]:
  """Returns the files that match, sorted and without repetition.

  Args:
    patterns: globs (`**` descends into folders), as a sequence or as one string with commas.

  Raises:
    DataError: a pattern matches no file.
  """
  if isinstance(patterns, str):
    patterns = patterns.split(",")
  patterns = [os.path.expanduser(pattern.strip()) for pattern in patterns if pattern.strip()]
  found_files: set[str] = set()
  for pattern in patterns:
    if is_remote(pattern):
      matches = transfers.matching(location(pattern))
    else:
      location(pattern)  # which refuses what looks like another store
      # A path is taken literally first: its name may contain brackets.
      found = [pattern] if os.path.isfile(pattern) else glob.glob(pattern, recursive=True)
      matches = [path for path in found if os.path.isfile(path)]
    if not matches:
      raise errors.DataError(
        "No text file matches.",
        value=pattern,
        rule=f"a path or glob, relative to {os.getcwd()} or in a bucket, of {_FORMATS}",
        remedy="correct TEXT_FILES; several globs are separated by commas.",
      )
    found_files.update(matches)
  if not found_files:
    raise errors.DataError(
      "No text files are given.",
      rule=f"a path or glob of {_FORMATS}",
      remedy="set TEXT_FILES, for example 'my/*.txt'.",
    )
  return tuple(sorted(found_files))


class Line(NamedTuple):
  """One line: its number from 1, the byte where it begins, and its text, or what is wrong with it."""

  number: int
  offset: int
  text: str
  fault: errors.DataError | None = None


class _Piece(NamedTuple):
  """Lines that are read or skipped together: a document, which may be blank, or a faulty one."""

  text: str
  lines: int = 1
  fault: errors.DataError | None = None


def read_documents(path: str, budget: documents_lib.SkipBudget | None = None) -> Iterator[str]:
  """Yields the documents of one file, and counts its lines.

  Args:
    path: of the file.
    budget: of faulty documents; none may be skipped if it is not given.

  Raises:
    DataError: the file is empty, malformed, or cannot be read.
  """
  budget = budget or documents_lib.SkipBudget()
  before, lines_read, lines_skipped = budget.skipped, 0, 0
  lines, empty = read_lines(path), True
  is_json = path.removesuffix(".gz").endswith(".jsonl")
  for piece in _json_lines(path, lines) if is_json else _paragraphs(lines, budget):
    if piece.fault is not None:
      budget.skip(piece.fault)
      lines_skipped += piece.lines
    else:
      lines_read += piece.lines
    if document := piece.text.strip():
      yield document
    empty = empty and not document and piece.fault is None
  if empty:
    raise errors.DataError(
      "The text file is empty.",
      value=path,
      rule="a file holds at least one document that is not blank",
      remedy="put text into it, or take it out of TEXT_FILES.",
    )
  budget.lines_read += lines_read
  budget.lines_skipped += lines_skipped
  if lines_skipped:
    logging.warning(
      "%s: %d of %d lines skipped, %d document(s)",
      path,
      lines_skipped,
      lines_read + lines_skipped,
      budget.skipped - before,
    )


def _paragraphs(lines: Iterable[Line], budget: documents_lib.SkipBudget) -> Iterator[_Piece]:
  """Yields the documents of plain text.

  Whether blank lines separate them is known at the first one that has text before and after it; the
  lines until then are held.
  """
  paragraph: list[_Piece] = []
  separated = ended = False
  faults = surplus = 0
  for line in lines:
    if line.fault is None and not line.text.strip():
      ended = True
      yield _Piece("")
      continue
    if ended and paragraph:
      separated = True
      yield _join(paragraph, surplus)
      paragraph, faults, surplus = [], 0, 0
    ended = False
    if line.fault is not None and faults > budget.limit:
      surplus += 1  # more would fill memory with the faults of a file that is no text
    else:
      paragraph.append(_Piece(line.text, 1, line.fault))
      faults += line.fault is not None
  if separated and paragraph:
    yield _join(paragraph, surplus)
  else:
    yield from paragraph


def _join(lines: Sequence[_Piece], surplus: int) -> _Piece:
  """Returns lines, and a number of further faulty ones, as one piece."""
  fault = next((line.fault for line in lines if line.fault is not None), None)
  text = "" if fault is not None else "\n".join(line.text for line in lines)
  return _Piece(text, len(lines) + surplus, fault)


def _json_lines(path: str, lines: Iterable[Line]) -> Iterator[_Piece]:
  """Yields the documents of JSON lines."""
  for line in lines:
    if line.fault is not None or not line.text.strip():
      yield _Piece("", 1, line.fault)
      continue
    try:
      place = line_place(path, line)
      yield _Piece(json_texts(line.text, place, (TEXT_KEY,))[TEXT_KEY])
    except errors.DataError as fault:
      yield _Piece("", 1, fault)


def json_texts(line: str, place: str, keys: Sequence[str]) -> dict[str, str]:
  """Returns the texts of these keys of a JSON line; raises a DataError if it has not all of them."""
  try:
    record = json.loads(line)
  except (ValueError, RecursionError) as error:
    detail = getattr(error, "msg", error)  # whose place in the text would be taken for the file's
    raise errors.DataError(
      "A line is not JSON.",
      value=place,
      rule=f"one JSON object per line ({detail})",
      remedy="mend or remove the line.",
    ) from error
  for key in keys:
    if not isinstance(record, dict) or not isinstance(record.get(key), str):
      raise errors.DataError(
        f'A JSON line has no "{key}".',
        value=place,
        rule=f'each line is an object whose key "{key}" holds a string',
        remedy=f'name the key "{key}", or mend the line.',
      )
    if not _is_unicode(record[key]):
      raise errors.DataError(
        "A JSON line holds half a character.",
        value=place,
        rule=r"escapes from \ud800 to \udfff come in pairs",
        remedy="mend or remove the line.",
      )
  return {key: record[key] for key in keys}


def _is_unicode(text: str) -> bool:
  try:
    text.encode("utf-8")
  except UnicodeEncodeError:
    return False
  return True


def read_lines(path: str) -> Iterator[Line]:
  """Yields the lines of a file without their ends, each held in memory alone.

  Raises:
    DataError: the file cannot be read to its end; what is wrong with a line alone is in the line.
  """
  try:
    with files.open_to_read(location(path)) as raw, _plain(raw, path) as file:
      number = offset = 0
      while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        whole = len(line) <= MAX_LINE_BYTES or line.endswith(b"\n")
        if whole:
          yield _decode(path, number, offset, line)
          offset += len(line)
        else:
          length = len(line) + _pass_rest(file)
          yield Line(number, offset, "", _too_long(_place(path, number, offset), length))
          offset += length
  except (EOFError, gzip.BadGzipFile, zlib.error) as error:
    raise errors.DataError(
      "A compressed file is damaged.",
      value=path,
      rule=f"a complete gzip file ({error})",
      remedy="copy the file again, or leave it out.",
    ) from error
  except OSError as error:
    raise _unreadable(path, error) from error


def _plain(file: BufferedReader, path: str) -> gzip.GzipFile | BufferedReader:
  return gzip.GzipFile(fileobj=file) if path.endswith(".gz") else file


def _pass_rest(file: gzip.GzipFile | BufferedReader) -> int:
  """Reads to the end of a line without holding it; returns the number of bytes."""
  length = 0
  while part := file.readline(_PASSED_BYTES):
    length += len(part)
    if part.endswith(b"\n"):
      break
  return length


def _decode(path: str, number: int, offset: int, line: bytes) -> Line:
  if line.endswith(b"\n"):
    line = line[: -2 if line.endswith(b"\r\n") else -1]
  start = len(codecs.BOM_UTF8) if number == 1 and line.startswith(codecs.BOM_UTF8) else 0
  try:
    return Line(number, offset, line[start:].decode("utf-8"))
  except UnicodeDecodeError as error:
    start += error.start
    fault = errors.DataError(
      "A text file is not UTF-8.",
      value=f"{_place(path, number, offset + start)}: {line[start : start + 4]!r}",
      rule=f"text is UTF-8 ({error.reason})",
      remedy="convert it, for example: iconv -f LATIN1 -t UTF-8 OLD > NEW.",
    )
    return Line(number, offset, "", fault)


def _too_long(place: str, length: int) -> errors.DataError:
  return errors.DataError(
    "A line is too long.",
    value=f"{place}: {length:,} bytes",
    rule=f"a line has at most {MAX_LINE_BYTES:,} bytes: it is held in memory whole",
    remedy="break the line up, or remove it.",
  )


def line_place(path: str, line: Line) -> str:
  """Returns where a line is, for an error."""
  return _place(path, line.number, line.offset)


def _place(path: str, number: int, offset: int) -> str:
  return f"{path}, line {number} (byte {offset})"


def _sha256(path: str) -> str:
  try:
    with files.open_to_read(location(path)) as file:
      return hashlib.file_digest(file, "sha256").hexdigest()
  except OSError as error:
    raise _unreadable(path, error) from error


_sha256_of_object = functools.cache(_sha256)


def _unreadable(path: str, error: OSError) -> errors.DataError:
  return errors.DataError(
    "A text file cannot be read.",
    value=path,
    rule=f"a readable file ({error.strerror or error})",
    remedy="check the path, the file and its permissions, or leave it out.",
  )
