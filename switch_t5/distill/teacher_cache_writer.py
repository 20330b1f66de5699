# SPDX-License-Identifier: Apache-2.0
"""Writes what a teacher says of the rows of a run, shard by shard: see `teacher_cache`."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from switch_t5.data.shards import sha256, write_json
from switch_t5.distill.teacher_cache import (
  CONTENTS_FILE,
  FORMAT_VERSION,
  Contents,
  Shard,
  check_same,
  find_shards,
  read_contents,
  shard_file,
)
from switch_t5.errors import DataError
from switch_t5.storage import files
from switch_t5.storage.location import Location, is_remote


class TeacherCacheWriter:
  """Writes the rows of a cache that are not there yet, shard by shard.

  Args:
    directory: of the cache, which may not be there yet.
    contents: what it holds, or is to hold.

  Raises:
    DataError: the directory holds something else.
  """

  def __init__(self, directory: Location, contents: Contents):
    self._directory, self._contents = directory, contents
    if files.exists(directory / CONTENTS_FILE):
      check_same(read_contents(directory), contents, directory)

  def check_room(self, num_rows: int) -> None:
    """Raises DataError if the disk has no room for what a cache of that many rows lacks."""
    if is_remote(self._directory):
      return
    record = self._contents.record.itemsize
    needed = (num_rows - sum(shard.stop - shard.start for shard in self._whole())) * record
    there = next(path for path in (self._directory, *self._directory.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
      raise DataError(
        "The teacher's cache does not fit the disk.",
        value=f"{needed / 1e6:,.1f} MB are to be written, {free / 1e6:,.1f} MB are free in {there}",
        rule=f"{record:,} bytes a row",
        remedy="make room, give another TEACHER_CACHE, or a smaller cache_teacher.num_rows or "
        "cache_teacher.top_k",
      )

  def begin(self) -> None:
    """Makes the directory, if it is not there, and says in it what it is to hold.

    Raises:
      DataError: it cannot be written.
    """
    with _writable(self._directory):
      files.make_directory(self._directory)
      if not files.exists(self._directory / CONTENTS_FILE):
        more = {"format_version": FORMAT_VERSION, "sha256": self._contents.digest}
        write_json(self._directory / CONTENTS_FILE, dataclasses.asdict(self._contents) | more)

  def parts(self, num_rows: int) -> list[range]:
    """Returns the rows of each shard of a cache of that many; the last one may have fewer."""
    size = self._contents.shard_rows
    return [range(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]

  def missing(self, parts: Sequence[range]) -> list[range]:
    """Returns those of the parts that are not there, or whose file has not its size."""
    stops = {shard.start: shard.stop for shard in sorted(self._whole())}
    return [part for part in parts if stops.get(part.start, 0) < part.stop]

  def write(self, part: range, said: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
    """Writes the shard of a part.

    Args:
      part: its rows.
      said: ids and probabilities [rows, T, k] of one batch after the other, from the part's first row
        on; what is beyond its last one is left out.

    Raises:
      DataError: it cannot be written.
    """
    path, left = self._directory / shard_file(part), len(part)
    with _writable(self._directory):
      with files.committed(path) as temporary:
        with temporary.open("wb") as file:
          for ids, probs in said:
            rows = np.empty(min(len(ids), left), self._contents.record)
            rows["ids"], rows["probs"] = ids[: len(rows)], probs[: len(rows)]
            file.write(rows.tobytes())
            left -= len(rows)
        if left:
          raise ValueError(f"{left} rows of {part} are lacking")
        digest = sha256(temporary)
      write_json(path.with_suffix(".json"), {"sha256": digest})
      for shard in find_shards(self._directory):  # of a cache that had fewer rows
        if shard.start == part.start and shard.stop < part.stop:
          path = self._directory / shard.file
          files.remove(path.with_suffix(".json"))
          files.remove(path)

  def finish(self) -> None:
    """Removes what is left of processes that were killed; no job is still writing."""
    files.remove_temporary_files(self._directory)

  def _whole(self) -> list[Shard]:
    sizes = files.sizes(self._directory)
    return [
      shard for shard in find_shards(self._directory) if shard.is_whole(sizes, self._contents)
    ]


@contextlib.contextmanager
def _writable(directory: Location) -> Iterator[None]:
  try:
    yield
  except OSError as error:
    raise DataError(
      "The teacher's cache cannot be written.",
      value=directory,
      rule=f"a directory on a disk with room for it ({error.strerror or error})",
      remedy="give another directory as TEACHER_CACHE, or make room; what is written is kept",
    ) from error
