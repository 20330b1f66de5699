# SPDX-License-Identifier: Apache-2.0
"""OUTPUT_FILE of `infer` in object storage, where nothing is appended to: each line is written once.

Lines that are done are put as parts, `OUTPUT_FILE.parts/<first>-<end>.jsonl`; when all are there they
are joined to one object, OUTPUT_FILE, and deleted. A part is whole or not there, so the names say how
far a run is. Two runs of the same job write the same parts: `OUTPUT_FILE.run.json` says what they
follow from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

from switch_t5.cli import infer_output
from switch_t5.storage import files, objects
from switch_t5.storage.location import Location

_PART = re.compile(r"(\d{12})-(\d{12})\.jsonl", re.ASCII)


class StoredOutput:
  """One job's lines; a context manager as `infer_output.OutputFile` is.

  Attributes:
    done: lines that are there.

  Args:
    path: of the object.
    numbers: of the lines that it is to have.
    follows_from: what the answers follow from, JSON by name.
  """

  def __init__(self, path: Location, numbers: range, follows_from: Mapping[str, Any]):
    self._path, self._numbers = path, numbers
    self._record = infer_output.record_path(path)
    self._follows_from: dict[str, Any] = json.loads(json.dumps(follows_from))
    self.done = 0

  def __enter__(self) -> StoredOutput:
    """Finds what is done.

    Raises:
      DataError: it is of a run that had other inputs, or of none.
      StorageError: the store fails, or refuses.
    """
    if files.exists(self._record):
      infer_output.check_same(self._record, self._follows_from)
    elif files.exists(self._path):
      raise infer_output.other_content(self._path, f"{self._record.name} is not beside it")
    else:
      infer_output.write_record(self._record, self._follows_from)
    self.done = lines_done(self._path, self._numbers)
    self._join_if_done()
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    pass

  def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
    """Puts lines as a part; they are there when it returns.

    Raises:
      StorageError: the store fails; what was put before stays.
    """
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
    first = self._numbers.start + self.done
    name = f"{first:012d}-{first + len(lines):012d}.jsonl"
    objects.write(_parts_folder(self._path) / name, "".join(lines).encode("utf-8"))
    self.done += len(lines)
    self._join_if_done()

  def _join_if_done(self) -> None:
    """Joins the parts once they are all there; a run that was killed then only deletes them."""
    if self.done < len(self._numbers):
      return
    folder = _parts_folder(self._path)
    if not files.exists(self._path):
      with files.committed(self._path) as temporary, temporary.open("wb") as file:
        for part in _parts(self._path, self._numbers):
          file.write(objects.read(folder / part))
    for name in files.sizes(folder):
      objects.delete(folder / name)


def lines_done(path: Location, numbers: range) -> int:
  """Returns how many lines of a job are there."""
  if files.exists(path):
    return len(numbers)
  parts = _parts(path, numbers)
  return _range(parts[-1]).stop - numbers.start if parts else 0


def _parts(path: Location, numbers: range) -> list[str]:
  """Returns the names of the parts that follow each other without a gap."""
  found = map(_range, filter(_PART.fullmatch, files.sizes(_parts_folder(path))))
  by_start = {part.start: part for part in sorted(found, key=len)}  # of two the longer
  names, start = [], numbers.start
  while start in by_start:
    part = by_start[start]
    names.append(f"{part.start:012d}-{part.stop:012d}.jsonl")
    start = part.stop
  return names


def _range(name: str) -> range:
  match = _PART.fullmatch(name)
  assert match
  return range(int(match[1]), int(match[2]))


def _parts_folder(path: Location) -> Location:
  return path.with_name(f"{path.name}.parts")
