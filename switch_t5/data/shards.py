# SPDX-License-Identifier: Apache-2.0
"""The shards of a cache: which there will be, and how each of them is written.

A *shard* holds the tokens of `shard_documents` documents in a row (the last one of a split may hold
fewer), so which shards there will be is known before any of them is written, and each can be written
by another process. Beside the file of a shard stands its *record*, a JSON file, written after it: a
shard with a record is done. Either file is written under a temporary name of its own, made durable,
and renamed, or put as one object (`storage.files`); two processes that write the same shard write the
same bytes.

The file is an ArrayRecord of records of `RECORD_LENGTH` tokens (its last one may be shorter),
uncompressed little-endian integers of two bytes where the vocabulary allows it, which read twice as
fast as compressed ones and are hardly larger.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import fnmatch
import functools
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tqdm
from array_record.python import array_record_module

from switch_t5 import errors
from switch_t5.data.documents import Documents, SkipBudget
from switch_t5.data.vocabulary import Vocabulary
from switch_t5.storage import files
from switch_t5.storage.location import Location

RECORD_LENGTH = 2048  # tokens; several windows, so that a window rarely needs two records
_DOCUMENTS_PER_BATCH = 1024
_ENDING = ".array_record"
_REQUESTS = 32  # to an object store, side by side


@dataclasses.dataclass(frozen=True)
class Shard:
  """One file: its name, what it holds, its size in bytes and its SHA-256 (hex).

  `skipped` counts documents that were found faulty when the shard was written, and are not in it.
  """

  file: str
  documents: int
  tokens: int
  size: int
  sha256: str
  skipped: int = 0


@dataclasses.dataclass(frozen=True)
class Part:
  """The documents of one shard.

  Attributes:
    split: its name.
    file: the shard's.
    start, stop: the documents [start, stop) of the split.
    total: number of shards of the whole cache.
  """

  split: str
  file: str
  start: int
  stop: int
  total: int

  def __len__(self) -> int:
    return self.stop - self.start


def divide(documents: Mapping[str, Documents], shard_documents: int) -> list[Part]:
  """Returns the parts of all splits, in their order; an empty split has one of no document."""
  starts = {
    split: range(0, max(len(texts), 1), shard_documents) for split, texts in documents.items()
  }
  total = sum(map(len, starts.values()))
  parts: list[Part] = []
  for split, texts in documents.items():
    for index, start in enumerate(starts[split]):
      file = f"{split}-{index:05d}-of-{len(starts[split]):05d}{_ENDING}"
      stop = min(start + shard_documents, len(texts))
      parts.append(Part(split, file, start, stop, total))
  return parts


def find(directory: Location, part: Part, fingerprint: str) -> Shard | None:
  """Returns a part's shard if it is done: made from `fingerprint`, and of the size it then had."""
  record = _read_record(_record_path(directory / part.file))
  if record is None or record["fingerprint"] != fingerprint:
    return None
  return record["shard"]


def find_all(directory: Location, parts: Sequence[Part], fingerprint: str) -> list[Shard | None]:
  """Returns what `find` does of each part: an object store is asked for many at a time."""
  with concurrent.futures.ThreadPoolExecutor(_REQUESTS) as executor:
    return list(executor.map(functools.partial(find, directory, fingerprint=fingerprint), parts))


def count(directory: Location) -> tuple[int, int]:
  """Returns how many shards are done, and of how many; (0, 0) if no record says it."""
  with concurrent.futures.ThreadPoolExecutor(_REQUESTS) as executor:
    names = fnmatch.filter(files.sizes(directory), "*-of-*.json")
    records = list(executor.map(_read_record, map(directory.joinpath, names)))
  totals = [record["total"] for record in records if record is not None]
  return len(totals), max(totals, default=0)


def write(
  directory: Location,
  part: Part,
  documents: Iterable[str],
  vocabulary: Vocabulary,
  fingerprint: str,
  budget: SkipBudget,
  progress: tqdm.tqdm,
) -> None:
  """Tokenises a part's documents and writes its shard, then its record.

  Args:
    directory: of the cache.
    part: which shard.
    documents: of the part.
    vocabulary: for their tokens.
    fingerprint: of all that the shard follows from.
    budget: counts the documents that the source skips while it is read.
    progress: a bar that counts the documents.

  Raises:
    DataError: the source has fewer or more documents than it says.
    OSError: it cannot be written.
  """
  path = directory / part.file
  counted, before = _Counted(documents, progress), budget.skipped
  with files.temporary(path) as temporary:
    tokens = _write_file(temporary, _records(_tokenise(counted, vocabulary), RECORD_LENGTH))
    skipped = budget.skipped - before
    if counted.count + skipped != len(part):
      raise errors.DataError(
        f"The documents {part.start} to {part.stop} of {part.split} are not all there.",
        value=f"{counted.count} documents, {skipped} skipped",
        rule=f"as many as the source says: {len(part)}",
        remedy="make the source's files complete: prepare the data set, or copy it, again.",
      )
    shard = _finish(temporary, path, counted.count, tokens, skipped)
  record = {"fingerprint": fingerprint, "total": part.total, "shard": dataclasses.asdict(shard)}
  write_json(_record_path(path), record)


def write_pieces(path: Location, pieces: Iterable[np.ndarray]) -> Shard:
  """Writes a shard of tokens that are made already, each piece a document; no record of it.

  Raises:
    OSError: it cannot be written.
  """
  counted = _Counted(pieces)
  with files.temporary(path) as temporary:
    tokens = _write_file(temporary, _records(counted, RECORD_LENGTH))
    return _finish(temporary, path, counted.count, tokens)


def write_lengths(path: Location, lengths: np.ndarray) -> Shard:
  """Writes the lengths of examples, int32 [examples, 2], as NumPy does.

  Raises:
    OSError: it cannot be written.
  """
  with files.temporary(path) as temporary:
    with temporary.open("wb") as file:
      np.save(file, lengths)
    return _finish(temporary, path, len(lengths), int(lengths.sum()))


def write_json(path: Location, content: Mapping[str, Any]) -> None:
  """Writes a JSON file in one step: it is there whole, or as it was before."""
  with files.committed(path) as temporary:
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def sha256(path: Location) -> str:
  """Returns the SHA-256 of a file, in hex."""
  with files.open_to_read(path) as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def token_dtype(vocabulary: Vocabulary) -> str:
  """Returns NumPy's name of the integers that are stored."""
  return "<u2" if vocabulary.size <= 2**16 else "<i4"


def _record_path(shard: Location) -> Location:
  return shard.with_suffix(".json")


def _read_record(path: Location) -> dict[str, Any] | None:
  """Returns the record of a shard, with the `Shard` itself, or None if the shard is not done."""
  try:
    record = json.loads(files.read(path))
    record["shard"] = Shard(**record["shard"])
    size = files.size(path.parent / record["shard"].file)
  except (OSError, ValueError, KeyError, TypeError):  # no record, half of one, or no shard
    return None
  return record if size == record["shard"].size else None


def _finish(
  temporary: Path, path: Location, documents: int, tokens: int, skipped: int = 0
) -> Shard:
  """Gives a file that is written whole its name; returns what it is."""
  size, digest = temporary.stat().st_size, sha256(temporary)
  files.commit(temporary, path)
  return Shard(path.name, documents, tokens, size, digest, skipped)


class _Counted:
  """Documents, or their tokens, that are counted as they pass, also on a progress bar."""

  def __init__(self, items: Iterable[Any], progress: tqdm.tqdm | None = None):
    self._items, self._progress, self.count = items, progress, 0

  def __iter__(self) -> Iterator[Any]:
    for item in self._items:
      self.count += 1
      if self._progress is not None:
        self._progress.update()
      yield item


def _tokenise(documents: Iterable[str], vocabulary: Vocabulary) -> Iterator[np.ndarray]:
  """Yields the tokens of one document after the other."""
  dtype = np.dtype(token_dtype(vocabulary))
  documents = iter(documents)
  while batch := list(itertools.islice(documents, _DOCUMENTS_PER_BATCH)):
    for ids in vocabulary.encode_batch(batch):
      yield np.asarray(ids, dtype)


def _records(pieces: Iterable[np.ndarray], length: int) -> Iterator[np.ndarray]:
  """Yields the pieces joined and cut into records of `length` tokens; the last may be shorter."""
  waiting: list[np.ndarray] = []
  for piece in pieces:
    waiting.append(piece)
    if sum(map(len, waiting)) >= length:
      tokens = np.concatenate(waiting)
      whole = len(tokens) - len(tokens) % length
      yield from np.split(tokens[:whole], whole // length)
      waiting = [tokens[whole:]]
  if any(map(len, waiting)):
    yield np.concatenate(waiting)


def _write_file(path: Path, records: Iterable[np.ndarray]) -> int:
  """Writes a file of records; returns the number of its tokens."""
  with _as_os_error():
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1,uncompressed")
  written = tokens = 0
  for record in records:
    with _as_os_error():
      writer.write(record.tobytes())
    written, tokens = written + 1, tokens + len(record)
  with _as_os_error():
    writer.close()
    found = array_record_module.ArrayRecordReader(str(path)).num_records()
  if found != written:
    raise OSError(f"{found} of {written} records of {path.name} were written")
  return tokens


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
  """Turns what array_record raises into what it means."""
  try:
    yield
  except RuntimeError as error:
    raise OSError(str(error)) from error
