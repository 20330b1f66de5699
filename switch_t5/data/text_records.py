# SPDX-License-Identifier: Apache-2.0
"""Texts that are worked through one by one: a line of a file each, .txt or .jsonl, also .gz.

Of a .jsonl file, blank lines are passed over; a line of any other file is a text as it stands, a
blank one too. Faults are those of `text_files`, and none is passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from switch_t5 import errors
from switch_t5.data import text_files


def read_texts(path: str, key: str) -> Iterator[str]:
  """Yields the text of each line.

  Args:
    path: of the file.
    key: of a .jsonl line's text.

  Raises:
    DataError: the file cannot be read, has no line, or has one that is not as it should be.
  """
  if is_jsonl(path):
    yield from (record[key] for record in read_records(path, (key,)))
    return
  empty = True
  for line in text_files.read_lines(path):
    if line.fault is not None:
      raise line.fault
    yield line.text
    empty = False
  if empty:
    raise _empty(path)


def read_records(path: str, keys: Sequence[str]) -> Iterator[dict[str, str]]:
  """Yields the texts of these keys of each line of a .jsonl file; other keys are left out.

  Raises:
    DataError: see `read_texts`.
  """
  empty = True
  for line in text_files.read_lines(path):
    if line.fault is not None:
      raise line.fault
    if line.text.strip():
      yield text_files.json_texts(line.text, text_files.line_place(path, line), keys)
      empty = False
  if empty:
    raise _empty(path)


def is_jsonl(path: str) -> bool:
  """Whether a file's name says that its lines are JSON."""
  return path.removesuffix(".gz").endswith(".jsonl")


def _empty(path: str) -> errors.DataError:
  return errors.DataError("The file is empty.", value=path, rule="at least one line")
