# SPDX-License-Identifier: Apache-2.0
"""What a teacher says of the rows of a run, on disk: its k greatest probabilities for each target.

Row i of a run's training stream is a function of the run's data alone (`data.indexed`), so what a teacher
says of it is worked out once and read by any number of students, at any batch size and mesh.

The directory holds `contents.json`, what the rows follow from and how they are stored, and *shards*: the
rows [start, stop) in `rows-<start>-<stop>.bin`, records of one size that NumPy reads as they lie, a row
each: T * k ids, then T * k probabilities, little-endian. Beside a shard stands its *record*, a JSON file
with its SHA-256, written after it: a shard with a record is done. Either file is written under a
temporary name, made durable and renamed. So a process that is killed loses the shard that it was at, jobs
can share the shards, and a cache grows by as many rows as are asked for later. Its rows are those from
the first on that are there without a gap.

A run reads its rows in their order. So of a cache in object storage a process gets one whole shard after
the other, one ahead, holds a few of them in memory, and verifies each when it comes: to verify all at
the start would be to read all twice.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from switch_t5.batch import TEACHER_IDS, TEACHER_PROBS
from switch_t5.data.shards import sha256
from switch_t5.errors import DataError
from switch_t5.sharding.placement import from_all_processes
from switch_t5.storage import files
from switch_t5.storage.location import Location, is_remote, location
from switch_t5.types import HostBatch

FORMAT_VERSION = 1
CONTENTS_FILE = "contents.json"
PROBS_DTYPES = ("float16", "float32")
_MOST_SHARD_ROWS = 4096
_MOST_SHARD_BYTES = 2**27
_OPEN_SHARDS = 4  # a batch is of one or two
_REQUESTS = 32  # to an object store, side by side
_VERIFYING_THREADS = 4  # hashlib releases the GIL; more saturate few disks
_RECORD = re.compile(r"rows-(\d{12})-(\d{12})\.json", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Contents:
  """What the rows of a cache follow from, and how they are stored.

  Attributes:
    teacher: the fingerprint of its checkpoint.
    teacher_dtype: in which it was asked.
    identity: of the data, what the stream of rows follows from; JSON by name.
    temperature: tau of the probabilities.
    num_ids: of the softmax: ids are below it.
    k: probabilities of a target, the greatest first.
    length: T, targets of a row.
    probs_dtype: one of `PROBS_DTYPES`.
  """

  teacher: str
  teacher_dtype: str
  identity: Mapping[str, Any]
  temperature: float
  num_ids: int
  k: int
  length: int
  probs_dtype: str

  @property
  def digest(self) -> str:
    """Returns a SHA-256 (hex) of all of it."""
    return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()

  @property
  def record(self) -> np.dtype:
    """Returns the type of a row: ids [T, k] in the smallest type that holds them, probs [T, k]."""
    ids = np.min_scalar_type(self.num_ids - 1).newbyteorder("<")
    probs = np.dtype(self.probs_dtype).newbyteorder("<")
    shape = (self.length, self.k)
    return np.dtype([("ids", ids, shape), ("probs", probs, shape)])

  @property
  def shard_rows(self) -> int:
    """Returns the rows of a shard: a power of two, so that the usual batch sizes divide it."""
    fitting = max(_MOST_SHARD_BYTES // self.record.itemsize, 1)
    return min(_MOST_SHARD_ROWS, 2 ** (fitting.bit_length() - 1))


class Shard(NamedTuple):
  """Rows [start, stop) that are there, in a file of that SHA-256 (hex)."""

  start: int
  stop: int
  sha256: str

  @property
  def file(self) -> str:
    """Its name."""
    return shard_file(range(self.start, self.stop))

  def is_whole(self, sizes: Mapping[str, int], contents: Contents) -> bool:
    """Says whether the file is there, and of its size; `sizes` are those of the directory's files."""
    return sizes.get(self.file) == (self.stop - self.start) * contents.record.itemsize


class TeacherCache:
  """A cache that is read, and verified: on a disk all its files at once. Every process opens it.

  Attributes:
    path: its directory.
    contents: what it holds.
    num_rows: its rows are those from 0 to this.

  Args:
    path: its directory.

  Raises:
    DataError: there is none, or a file of it is missing, cut short or changed.
  """

  def __init__(self, path: str | os.PathLike[str]):
    self.path = location(path)
    self.contents = read_contents(self.path)
    by_start = {shard.start: shard for shard in sorted(find_shards(self.path))}
    self._shards: list[Shard] = []
    self.num_rows = 0
    while self.num_rows in by_start:
      self._shards.append(by_start[self.num_rows])
      self.num_rows = self._shards[-1].stop
    _verify(self.path, self.contents, self._shards)
    self._shard = functools.lru_cache(_OPEN_SHARDS)(self._open)
    self._ahead = concurrent.futures.ThreadPoolExecutor(1)
    self._coming: dict[int, concurrent.futures.Future[np.ndarray]] = {}

  @property
  def k(self) -> int:
    """Probabilities of a target."""
    return self.contents.k

  @property
  def num_ids(self) -> int:
    """Of the teacher's softmax."""
    return self.contents.num_ids

  @property
  def temperature(self) -> float:
    """Of the probabilities."""
    return self.contents.temperature

  @property
  def fingerprint(self) -> str:
    """Of the teacher's checkpoint."""
    return self.contents.teacher

  def check(
    self, identity: Mapping[str, Any], temperature: float, rows_needed: int, vocab_size: int
  ) -> None:
    """Holds that a run can be trained from this cache.

    Args:
      identity: of the run's data.
      temperature: of the run's loss.
      rows_needed: the run reads the rows below it.
      vocab_size: ids that the student knows.

    Raises:
      DataError: it cannot; what differs.
    """
    wanted = dataclasses.replace(self.contents, identity=identity, temperature=temperature)
    check_same(self.contents, wanted, self.path)
    if self.num_ids > vocab_size:
      raise DataError(
        "The teacher of the cache knows more ids than the student.",
        value=f"{self.num_ids} ids in {self.path}, ModelConfig.vocab_size = {vocab_size}",
        rule="the student has each of the teacher's ids",
        remedy=f"ModelConfig.vocab_size = {self.num_ids}",
      )
    if rows_needed > self.num_rows:
      raise self._too_few(f"{rows_needed:,} rows that the run reads", rows_needed)

  def read(self, row_numbers: Sequence[int] | np.ndarray) -> HostBatch:
    """Returns what the teacher says of some rows: the features TEACHER_IDS and TEACHER_PROBS.

    Args:
      row_numbers: of the training stream, counted over all its epochs.

    Raises:
      DataError: a row is not in the cache, or cannot be read.
    """
    numbers: np.ndarray = np.asarray(row_numbers, np.int64)
    last = int(numbers.max())
    if last >= self.num_rows:
      raise self._too_few(f"row {last:,}, counted from 0", last + 1)
    rows = np.empty(len(numbers), self.contents.record)
    index = numbers // self.contents.shard_rows
    for shard in np.unique(index).tolist():
      here = index == shard
      rows[here] = self._shard(shard)[numbers[here] - self._shards[shard].start]
    return {
      TEACHER_IDS: rows["ids"].astype(np.int32),
      TEACHER_PROBS: rows["probs"].astype(np.float32),
    }

  def _open(self, index: int) -> np.ndarray:
    path = self.path / self._shards[index].file
    try:
      if not is_remote(path):
        return np.memmap(path, self.contents.record, mode="r")
      coming = self._coming.pop(index, None)
      if index + 1 < len(self._shards):
        self._coming = {index + 1: self._ahead.submit(self._get, index + 1)}
      return self._get(index) if coming is None else coming.result()
    except (OSError, ValueError) as error:  # it was removed or cut meanwhile
      raise _damaged(path, f"a file that can be read ({error})") from error

  def _get(self, index: int) -> np.ndarray:
    """Returns the rows of a shard in object storage, verified."""
    path, digest = self.path / self._shards[index].file, self._shards[index].sha256
    content = files.read(path)
    if hashlib.sha256(content).hexdigest() != digest:
      raise _damaged(path, f"SHA-256 {digest}")
    return np.frombuffer(content, self.contents.record)

  def _too_few(self, what: str, rows: int) -> DataError:
    return DataError(
      "The teacher's cache has too few rows.",
      value=f"{self.num_rows:,} rows in {self.path}",
      rule=what,
      remedy=f"switch_t5 cache_teacher --gin.cache_teacher.num_rows={rows} with the same gin files and "
      "bindings adds those that are missing",
    )


class NumberedReader(Protocol):
  """Batches of this process's rows, and as `rows_consumed` the number of the next batch's first row."""

  def __next__(self) -> HostBatch: ...

  def state(self) -> dict[str, Any]:
    """Returns the position."""

  def restore(self, state: Mapping[str, Any]) -> None:
    """Goes on at a position."""


class CachedTeacherReader:
  """A reader that adds the teacher's features to the batches of another, by the number of the row.

  Args:
    reader: of the run's training stream.
    cache: of the same stream, see `TeacherCache.check`.
    rows: places in the global batch whose rows this process supplies.
  """

  def __init__(self, reader: NumberedReader, cache: TeacherCache, rows: np.ndarray):
    self._reader, self._cache, self._rows = reader, cache, rows

  def __iter__(self) -> CachedTeacherReader:
    return self

  def __next__(self) -> HostBatch:
    """Returns the next batch, with TEACHER_IDS and TEACHER_PROBS.

    Raises:
      DataError: a row is not in the cache, or cannot be read.
    """
    first = self._reader.state()["rows_consumed"]
    return next(self._reader) | self._cache.read(first + self._rows)

  def state(self) -> dict[str, Any]:
    """Returns the position of the other reader."""
    return self._reader.state()

  def restore(self, state: Mapping[str, Any]) -> None:
    """Goes on at a position."""
    self._reader.restore(state)


def _verify(directory: Location, contents: Contents, shards: Sequence[Shard]) -> None:
  """Raises DataError for a file that is not as it was written; processes share the reading."""
  sizes = files.sizes(directory)
  mine = shards[jax.process_index() :: jax.process_count()]
  with concurrent.futures.ThreadPoolExecutor(_VERIFYING_THREADS) as executor:
    rules = executor.map(functools.partial(_broken_rule, directory, contents, sizes), mine)
    broken = [(shard.file, rule) for shard, rule in zip(mine, rules, strict=True) if rule]
  # What one process finds, all raise.
  for file, rule in sorted(found for share in from_all_processes(broken) for found in share):
    raise _damaged(directory / file, rule)


def _broken_rule(
  directory: Location, contents: Contents, sizes: Mapping[str, int], shard: Shard
) -> str | None:
  rows = shard.stop - shard.start
  if not shard.is_whole(sizes, contents):
    return f"a file of {rows:,} records of {contents.record.itemsize:,} bytes"
  if is_remote(directory):
    return None
  try:
    return None if sha256(directory / shard.file) == shard.sha256 else f"SHA-256 {shard.sha256}"
  except OSError as error:
    return f"a file that can be read ({error.strerror})"


def find_shards(directory: Location) -> list[Shard]:
  """Returns the shards that have a record; raises DataError for a record that is none."""
  records = list(filter(_RECORD.fullmatch, files.sizes(directory)))
  with concurrent.futures.ThreadPoolExecutor(_REQUESTS) as executor:
    return list(executor.map(functools.partial(_read_record, directory), records))


def _read_record(directory: Location, name: str) -> Shard:
  path, match = directory / name, _RECORD.fullmatch(name)
  assert match
  try:
    digest = str(json.loads(files.read(path))["sha256"])
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise _damaged(path, f"the record of a shard ({error!r})") from error
  return Shard(int(match[1]), int(match[2]), digest)


def read_contents(directory: Location) -> Contents:
  """Returns what a cache holds; raises DataError if there is none, or if it is damaged."""
  path = directory / CONTENTS_FILE
  try:
    fields = json.loads(files.read(path))
    version, digest = fields.pop("format_version"), fields.pop("sha256")
    contents = Contents(**fields)
    if version != FORMAT_VERSION or digest != contents.digest:
      raise ValueError(f"of version {FORMAT_VERSION}, and as it was written")
    return contents
  except FileNotFoundError as error:
    raise DataError(
      "There is no cache of a teacher.",
      value=directory,
      rule=f"a directory that `switch_t5 cache_teacher` wrote, with {CONTENTS_FILE}",
      remedy="write it first: switch_t5 cache_teacher, with the same gin files and bindings as the run",
    ) from error
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise _damaged(path, f"what a cache of a teacher holds ({error!r})") from error


def check_same(found: Contents, wanted: Contents, directory: Location) -> None:
  """Raises DataError if a directory's cache is of something else, and names what differs."""
  there, here = map(_flat, (found, wanted))
  changed = [name for name in {**here, **there} if there.get(name) != here.get(name)]
  if changed:
    raise DataError(
      "The teacher's cache is of something else.",
      value=f"{directory}: "
      + "; ".join(f"{n}: {_short(there.get(n))}, now {_short(here.get(n))}" for n in changed),
      rule="a cache is of one teacher, data, SEED, vocabulary, lengths, temperature and k",
      remedy="restore them, or write a cache of its own: switch_t5 cache_teacher with another "
      "TEACHER_CACHE",
    )


def _flat(contents: Contents) -> dict[str, Any]:
  """Returns the attributes by name, those of the identity among them, as JSON gives them back."""
  fields = json.loads(json.dumps(dataclasses.asdict(contents)))
  identity = fields.pop("identity")
  return fields | {f"data's {name}": value for name, value in identity.items()}


def _short(value: object) -> str:
  text = str(value)
  return text if len(text) <= 80 else f"{text[:77]}..."


def shard_file(part: range) -> str:
  """Returns the name of the file of some rows."""
  return f"rows-{part.start:012d}-{part.stop:012d}.bin"


def _damaged(path: Location, rule: str) -> DataError:
  return DataError(
    "The teacher's cache is damaged.",
    value=path,
    rule=rule,
    remedy="delete this file; the same `switch_t5 cache_teacher` then writes what is missing",
  )
