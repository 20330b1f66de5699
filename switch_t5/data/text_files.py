# SPDX-License-Identifier: Apache-2.0
"""Documents from local files: .txt and .jsonl, plain or compressed with gzip (.txt.gz, .jsonl.gz).

- .txt: blank lines separate documents. A file without any blank line has one document per line.
- .jsonl: each line is an object whose key "text" holds one document; blank lines are skipped.

A file with any other ending is read as .txt. Text is UTF-8 (a byte-order mark is ignored); `.gz`
alone decides that a file is decompressed. Whatever is wrong is an error that names the file and the
place in it, counted in the decompressed bytes; nothing is skipped.
"""

from __future__ import annotations

import dataclasses
import glob
import gzip
import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterator, Sequence

import tqdm

from switch_t5 import errors
from switch_t5.data import documents as documents_lib

TEXT_KEY = "text"
_BLANK_LINES = re.compile(r"\n[^\S\n]*\n")
_FORMATS = "a .txt or .jsonl file, or one of these compressed as .gz"


@dataclasses.dataclass(frozen=True)
class TextFiles:
  """Local text files, as a source of documents.

  Attributes:
    paths: the files, as `find_files` returns them.
  """

  paths: tuple[str, ...]

  def documents(self) -> dict[str, list[str]]:
    """Reads all files; returns the documents of each split. Shows a progress bar on a terminal.

    Raises:
      DataError: a file is empty, malformed, or cannot be read.
    """
    files = tqdm.tqdm(self.paths, desc="text files", unit="file", disable=None)
    texts = [document for path in files for document in read_documents(path)]
    return documents_lib.split_and_shuffle(texts)

  def provenance(self) -> dict[str, str]:
    """Returns the SHA-256 of each file by its name (by its path where names repeat).

    It reads every file (about a second per gigabyte), so that no edit goes unnoticed and a copy of
    the files elsewhere is recognised as the same text.
    """
    names = [os.path.basename(path) for path in self.paths]
    if len(set(names)) < len(names):
      names = list(self.paths)
    return {name: _sha256(path) for name, path in zip(names, self.paths, strict=True)}


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
  files = set()
  for pattern in patterns:
    # A path is taken literally first: its name may contain brackets.
    found = [pattern] if os.path.isfile(pattern) else glob.glob(pattern, recursive=True)
    matches = [path for path in found if os.path.isfile(path)]
    if not matches:
      raise errors.DataError(
        "No text file matches.",
        value=pattern,
        rule=f"a path or glob, relative to {os.getcwd()}, of {_FORMATS}",
        remedy="correct TEXT_FILES; several globs are separated by commas.",
      )
    files.update(matches)
  if not files:
    raise errors.DataError(
      "No text files are given.",
      rule=f"a path or glob of {_FORMATS}",
      remedy="set TEXT_FILES, for example 'my/*.txt'.",
    )
  return tuple(sorted(files))


def read_documents(path: str) -> Iterator[str]:
  """Yields the documents of one file.

  Raises:
    DataError: the file is empty, malformed, or cannot be read.
  """
  text = _decode(path, _read(path))
  stem = path.removesuffix(".gz")
  documents = _json_lines(path, text) if stem.endswith(".jsonl") else _plain_text(text)
  empty = True
  for document in documents:
    empty = False
    yield document
  if empty:
    raise errors.DataError(
      "The text file is empty.",
      value=path,
      rule="a file holds at least one document that is not blank",
      remedy="put text into it, or take it out of TEXT_FILES.",
    )


def _plain_text(text: str) -> Iterator[str]:
  text = text.replace("\r\n", "\n").strip()
  separated = _BLANK_LINES.search(text) is not None
  for document in _BLANK_LINES.split(text) if separated else text.split("\n"):
    if document := document.strip():
      yield document


def _json_lines(path: str, text: str) -> Iterator[str]:
  offset = 0  # in bytes
  for number, line in enumerate(text.split("\n"), start=1):
    place = f"{path}, line {number} (byte {offset})"
    offset += len(line.encode("utf-8")) + 1
    if not line.strip():
      continue
    try:
      record = json.loads(line)
    except ValueError as error:
      raise errors.DataError(
        "A line is not JSON.",
        value=place,
        rule=f"one JSON object per line ({error})",
        remedy="mend or remove the line.",
      ) from error
    if not isinstance(record, dict) or not isinstance(record.get(TEXT_KEY), str):
      raise errors.DataError(
        f'A JSON line has no "{TEXT_KEY}".',
        value=place,
        rule=f'each line is an object whose key "{TEXT_KEY}" holds a string',
        remedy=f'name the key "{TEXT_KEY}", or convert the file to .txt.',
      )
    if not _is_unicode(record[TEXT_KEY]):
      raise errors.DataError(
        "A JSON line holds half a character.",
        value=place,
        rule=r"escapes from \ud800 to \udfff come in pairs",
        remedy="mend or remove the line.",
      )
    if document := record[TEXT_KEY].strip():
      yield document


def _is_unicode(text: str) -> bool:
  try:
    text.encode("utf-8")
  except UnicodeEncodeError:
    return False
  return True


def _read(path: str) -> bytes:
  try:
    with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
      return file.read()
  except (EOFError, gzip.BadGzipFile, zlib.error) as error:
    raise errors.DataError(
      "A compressed file is damaged.",
      value=path,
      rule=f"a complete gzip file ({error})",
      remedy="copy the file again, or take it out of TEXT_FILES.",
    ) from error
  except OSError as error:
    raise _unreadable(path, error) from error


def _decode(path: str, content: bytes) -> str:
  try:
    return content.decode("utf-8-sig")
  except UnicodeDecodeError as error:
    offset = error.start + (len(content) - len(error.object))  # after a byte-order mark
    line = content[:offset].count(b"\n") + 1
    raise errors.DataError(
      "A text file is not UTF-8.",
      value=f"{path}, line {line} (byte {offset}): {content[offset : offset + 4]!r}",
      rule=f"text is UTF-8 ({error.reason})",
      remedy="convert it, for example: iconv -f LATIN1 -t UTF-8 OLD > NEW.",
    ) from error


def _sha256(path: str) -> str:
  try:
    with open(path, "rb") as file:
      return hashlib.file_digest(file, "sha256").hexdigest()
  except OSError as error:
    raise _unreadable(path, error) from error


def _unreadable(path: str, error: OSError) -> errors.DataError:
  return errors.DataError(
    "A text file cannot be read.",
    value=path,
    rule=f"a readable file ({error.strerror})",
    remedy="check the file and its permissions, or take it out of TEXT_FILES.",
  )
