# SPDX-License-Identifier: Apache-2.0
"""OUTPUT_FILE of `infer`: each line is written once, however often the run is stopped.

Lines are appended in order and each holds its number, so the file itself says how far a run is.
Beside it, `OUTPUT_FILE.run.json` says what the answers follow from: written first, and never changed,
so that a run goes on only with what it began with.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from switch_t5.checkpoint.commit import write_text_durably
from switch_t5.errors import ConfigError, DataError
from switch_t5.storage import files
from switch_t5.storage.location import Location, location

INDEX = "index"
_SHOWN = 100
_TAIL = 1 << 16  # bytes that are read at a time to find the last line


def part_of(count: int, job: int, jobs: int) -> range:
  """Returns the numbers of a job's lines: a stretch of them, so that parts follow each other."""
  return range(count * job // jobs, count * (job + 1) // jobs)


def part_path(output_file: str, job: int, jobs: int) -> Location:
  """Returns the file of a job: OUTPUT_FILE itself, or `OUTPUT_FILE-00001-of-00004`."""
  return location(output_file if jobs == 1 else f"{output_file}-{job:05d}-of-{jobs:05d}")


def record_path(path: Location) -> Location:
  """Returns the file beside a job's that says what its answers follow from."""
  return path.with_name(f"{path.name}.run.json")


def lines_done(path: Path, numbers: range) -> int:
  """Returns how many lines of a part are there, by the number of the last one that is whole.

  Raises:
    DataError: if it is no line of that part.
  """
  with path.open("rb") as file:
    line = _last_line(file, whole_bytes(path))
  if line is None:
    return 0
  try:
    index = json.loads(line)[INDEX]
  except (ValueError, TypeError, KeyError):
    index = None
  if type(index) is not int or index not in numbers:
    raise other_content(path, f"its last line has the index {index!r}")
  return index - numbers.start + 1


def whole_bytes(path: Path) -> int:
  """Returns the length of a file without a line at its end that was not finished."""
  size = path.stat().st_size
  with path.open("rb") as file:
    end = size
    while end > 0:
      start = max(0, end - _TAIL)
      file.seek(start)
      found = file.read(end - start).rfind(b"\n")
      if found >= 0:
        return start + found + 1
      end = start
  return 0


class OutputFile:
  """One job's file, for one process at a time; a context manager.

  Attributes:
    done: lines that are there.

  Args:
    path: of the file.
    numbers: of the lines that it is to have.
    follows_from: what the answers follow from, JSON by name.
  """

  def __init__(self, path: Path, numbers: range, follows_from: Mapping[str, Any]):
    self._path, self._numbers = path, numbers
    self._record = Path(record_path(path))
    # As it reads back.
    self._follows_from: dict[str, Any] = json.loads(json.dumps(follows_from))
    self._file: int | None = None

  def __enter__(self) -> OutputFile:
    """Opens the file and finds what is done; cuts off a line that was not finished.

    Raises:
      ConfigError: it cannot be written, or another run writes it.
      DataError: it is of a run that had other inputs, or of none.
    """
    try:
      self._open()
    except OSError as error:
      self._close()
      raise _refusal(self._path, error) from error
    except BaseException:
      self._close()
      raise
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    self._close()

  def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes lines, each whole and on the disk when it returns.

    Raises:
      DataError: the disk is full, for instance; what was written before stays.
    """
    text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    waiting = memoryview(text.encode("utf-8"))
    try:
      assert self._file is not None
      while waiting:
        waiting = waiting[os.write(self._file, waiting) :]
      os.fsync(self._file)
    except OSError as error:
      raise DataError(
        f"OUTPUT_FILE cannot be written on: {error.strerror}.",
        value=self._path,
        rule="what was written before is kept",
        remedy="make room (df, quota); the same command goes on",
      ) from error

  def _open(self) -> None:
    self._path.parent.mkdir(parents=True, exist_ok=True)
    if not self._record.exists() and self._path.exists() and self._path.stat().st_size:
      raise other_content(self._path, f"{self._record.name} is not beside it")
    self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if self._record.exists():
      check_same(self._record, self._follows_from)
    else:
      write_record(self._record, self._follows_from)
    self.done = lines_done(self._path, self._numbers)
    if (whole := whole_bytes(self._path)) < self._path.stat().st_size:
      os.ftruncate(self._file, whole)

  def _close(self) -> None:
    if self._file is not None:
      os.close(self._file)
      self._file = None


def write_record(record: Location, follows_from: Mapping[str, Any]) -> None:
  """Writes what the answers follow from."""
  write_text_durably(record, json.dumps(follows_from, indent=2) + "\n")


def check_same(record: Location, follows_from: Mapping[str, Any]) -> None:
  """Raises DataError if a record says that the answers follow from something else."""
  try:
    saved = json.loads(files.read(record))
    assert isinstance(saved, dict)
  except (ValueError, AssertionError):
    raise other_content(record, "it is not what infer writes") from None
  names = [*follows_from, *(name for name in saved if name not in follows_from)]
  changed = [name for name in names if saved.get(name) != follows_from.get(name)]
  if changed:
    raise DataError(
      "OUTPUT_FILE has the answers of another run.",
      value="; ".join(
        f"{name}: {_shorten(saved.get(name))}, now {_shorten(follows_from.get(name))}"
        for name in changed
      ),
      rule=f"a run goes on with what it began with: {record}",
      remedy=f"restore {', '.join(changed)}, or choose another OUTPUT_FILE",
    )


def _last_line(file: Any, end: int) -> bytes | None:
  """Returns the last whole line of a file, None if there is none; `end` is where it ends."""
  if end == 0:
    return None
  start, found = end - 1, b""
  while start > 0:
    begin = max(0, start - _TAIL)
    file.seek(begin)
    block = file.read(start - begin)
    newline = block.rfind(b"\n")
    if newline >= 0:
      return block[newline + 1 :] + found
    found, start = block + found, begin
  return found


def _refusal(path: Path, error: OSError) -> ConfigError:
  if isinstance(error, BlockingIOError):
    return ConfigError(
      "Another run is writing this OUTPUT_FILE.",
      value=path,
      rule="one run at a time writes a file",
      remedy="wait for it, stop it, choose another OUTPUT_FILE, or share the work: --job=I/N",
    )
  return ConfigError(
    f"OUTPUT_FILE cannot be written: {error.strerror}.",
    value=path,
    rule="a file in a directory that exists or can be made, on a file system",
    remedy="--gin.OUTPUT_FILE=\"'a/directory/of/yours/answers.jsonl'\"",
  )


def other_content(path: Location, why: str) -> DataError:
  """Returns the error of a file that is not this run's."""
  return DataError(
    "OUTPUT_FILE is there, and is not of such a run.",
    value=f"{path}: {why}",
    rule="nothing is overwritten, and a run goes on with its own lines only",
    remedy="choose another OUTPUT_FILE, or remove it and the file .run.json beside it",
  )


def _shorten(value: object) -> str:
  text = str(value)
  return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
