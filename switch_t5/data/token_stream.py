# SPDX-License-Identifier: Apache-2.0
"""Random access to the token stream of one split of a cache."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from array_record.python import array_record_module

from switch_t5 import errors
from switch_t5.data import cache

_RANDOM_ACCESS = "readahead_buffer_size:0,max_parallelism:0"


class TokenStream:
  """The tokens of a split, as if its shards were one array.

  Attributes:
    info: of the cache.
    tokens: length of the stream.
  """

  def __init__(self, directory: str | os.PathLike[str], split: str):
    """Opens a split; its files are opened when first read.

    Raises:
      DataError: the cache is missing or damaged, or has no such split.
    """
    self.info = cache.read_info(directory)
    if split not in self.info.splits:
      raise errors.DataError(
        "The cache has no such split.",
        value=split,
        rule=f"a split of the cache {os.fspath(directory)}",
        remedy=errors.suggest(split, self.info.splits),
      )
    self._directory = Path(directory)
    self._shards = self.info.splits[split].shards
    self._ends = np.cumsum([shard.tokens for shard in self._shards])
    self._readers: dict[int, array_record_module.ArrayRecordReader] = {}
    self.tokens = int(self._ends[-1])

  def read(self, start: int, stop: int) -> np.ndarray:
    """Returns the tokens [start, stop) of the stream, which must lie inside it: int32 [stop - start].

    Raises:
      DataError: a record cannot be read; it names the shard.
    """
    if start == stop:
      return np.zeros(0, np.int32)
    pieces = []
    shard = int(np.searchsorted(self._ends, start, side="right"))
    while start < stop:
      end = int(self._ends[shard])
      first = end - self._shards[shard].tokens
      pieces.append(self._read_shard(shard, start - first, min(stop, end) - first))
      start = end
      shard += 1
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

  def _read_shard(self, shard: int, start: int, stop: int) -> np.ndarray:
    length = self.info.record_length
    first, last = start // length, (stop - 1) // length
    try:
      # One by one: array_record reads several in threads of its own, which costs six times one.
      reader = self._reader(shard)
      records = [reader.read([record])[0] for record in range(first, last + 1)]
    except (RuntimeError, ValueError, IndexError) as error:  # what array_record raises
      raise self._damaged(shard, f"records {first} to {last} can be read ({error})") from error
    content = np.frombuffer(b"".join(records), np.dtype(self.info.token_dtype))
    tokens = content[start - first * length : stop - first * length]
    if len(tokens) < stop - start:
      raise self._damaged(shard, f"{self._shards[shard].tokens} tokens")
    return tokens.astype(np.int32)

  def _reader(self, shard: int) -> array_record_module.ArrayRecordReader:
    if shard not in self._readers:
      path = self._directory / self._shards[shard].file
      self._readers[shard] = array_record_module.ArrayRecordReader(str(path), _RANDOM_ACCESS)
    return self._readers[shard]

  def _damaged(self, shard: int, rule: str) -> errors.DataError:
    return cache.damaged(self._directory / self._shards[shard].file, rule)
