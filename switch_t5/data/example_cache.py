# SPDX-License-Identifier: Apache-2.0
"""A cache of examples: the inputs and targets of a task of seqio's, ready to be read at random.

It is laid out as a cache of tokens (`cache`): the split's stream holds the inputs of each example, then
its targets. `SPLIT.lengths.npy` says how many tokens of each there are. One process writes all of it,
since how many examples a task makes is not known before.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator

import numpy as np
import tqdm

from switch_t5 import errors
from switch_t5.data import cache, shards
from switch_t5.data.example_tasks import ExampleTask
from switch_t5.data.vocabulary import Vocabulary
from switch_t5.storage import files
from switch_t5.storage.location import Location, location

SHARD_EXAMPLES = 2**17


def write_examples(
  task: ExampleTask,
  directory: str | os.PathLike[str],
  *,
  shard_examples: int = SHARD_EXAMPLES,
  job: int = 0,
) -> cache.CacheInfo | cache.Unfinished:
  """Writes the cache of a task, or finds it done. The lengths are held in memory until the end.

  Args:
    task: what to materialise.
    directory: the cache's, as `cache.cache_directory` returns it.
    shard_examples: examples per file, of which the last one of a split may have less.
    job: which of several jobs this is; the job 0 writes everything.

  Raises:
    DataError: the source is not usable, an id is none of the vocabulary's, the directory is not
      writable, or it holds a cache that was made from something else.
  """
  directory = location(directory)
  vocab, source = task.vocabulary(), task.provenance()
  if not files.exists(directory / cache.INFO_FILE):
    if job != 0:
      return cache.Unfinished(missing=(0,), total=1)
    try:
      files.make_directory(directory)
      splits = {
        split: _write_split(directory, split, task.examples(split), vocab, shard_examples)
        for split in task.splits()
      }
      kept = task.kept_eos()
      cache.write_info(
        directory, task.name, source, vocab, splits, kind=cache.EXAMPLES, kept_eos=kept
      )
    except OSError as error:
      raise cache.unwritable(directory, error) from error
  return cache.matching_info(directory, task.name, source, vocab)


def read_lengths(directory: str | os.PathLike[str], split: cache.Split) -> np.ndarray:
  """Returns the tokens of inputs and targets of each example of a split: int32 [examples, 2].

  Raises:
    DataError: the file cannot be read.
  """
  if split.lengths is None:
    raise ValueError("a cache of tokens has no lengths")
  path = location(directory) / split.lengths.file
  try:
    lengths = np.load(path)
  except (OSError, ValueError, EOFError) as error:
    raise cache.damaged(path, f"an array of lengths ({error})") from error
  if lengths.shape != (split.documents, 2) or lengths.sum() != split.tokens:
    raise cache.damaged(path, f"lengths of {split.documents} examples, {split.tokens} tokens")
  return lengths


def _write_split(
  directory: Location,
  split: str,
  examples: Iterable[tuple[np.ndarray, np.ndarray]],
  vocab: Vocabulary,
  shard_examples: int,
) -> cache.Split:
  """Writes the shards and the lengths of a split. Shows a progress bar on a terminal."""
  lengths: list[np.ndarray] = []
  pieces = _pieces(tqdm.tqdm(examples, desc=split, unit="example", disable=None), vocab, lengths)
  written: list[shards.Shard] = []
  # An empty split has a shard, of no example; else there is none of no example at the end.
  while (first := next(pieces, None)) is not None or not written:
    rest = itertools.islice(pieces, shard_examples - 1)
    path = directory / f"{split}-{len(written):05d}.array_record"
    written.append(
      shards.write_pieces(path, itertools.chain([] if first is None else [first], rest))
    )
  array = np.array(lengths, np.int32).reshape(-1, 2)
  return cache.Split(
    tuple(written), shards.write_lengths(directory / f"{split}.lengths.npy", array)
  )


def _pieces(
  examples: Iterable[tuple[np.ndarray, np.ndarray]],
  vocab: Vocabulary,
  lengths: list[np.ndarray],
) -> Iterator[np.ndarray]:
  """Yields the tokens of one example after the other, and notes the lengths."""
  dtype = np.dtype(shards.token_dtype(vocab))
  for inputs, targets in examples:
    tokens = np.concatenate([inputs, targets])
    if tokens.size and not 0 <= tokens.min() <= tokens.max() < vocab.size:
      raise errors.DataError(
        "An example has ids that the vocabulary has not.",
        value=f"example {len(lengths)}: {tokens.min()} to {tokens.max()}",
        rule=f"ids from 0 to {vocab.size - 1}",
        remedy="give the features of the task the vocabulary that made them",
      )
    lengths.append(np.array([len(inputs), len(targets)], np.int32))
    yield tokens.astype(dtype)
