# SPDX-License-Identifier: Apache-2.0
"""The indexed reader: batches of caches, addressed by the number of the row.

The rows of a split are windows of its token stream (`windows`), or examples of a task, several in a
row (`examples`). An epoch is all of them in a random order of its own. *Row* i, counted over all
epochs, is a function of (seed, i) alone: i says which window or examples, and the random numbers that
corrupt a window. So the position in the data is one integer, the number of rows that were delivered;
seeking costs nothing; and any number of processes, each supplying its rows of every global batch,
sees each row exactly once, also when their number or the batch size changes.

Of a mixture i says which component the row is from as well (`mixing`); each component has epochs of
its own.

Rows are read and corrupted in a thread of Grain, ahead of their use.
"""

from __future__ import annotations

import dataclasses
import math
import os
import sys
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import grain
import numpy as np

from switch_t5 import batch as batch_lib
from switch_t5 import errors
from switch_t5.data import cache, documents, mixing
from switch_t5.data.examples import PackedExamples
from switch_t5.data.windows import INPUTS, TARGETS, CorruptedWindows, Rows
from switch_t5.types import HostBatch

_PREFETCHED_BATCHES = 4
_SAMPLED_ROWS = 2000
_Source = CorruptedWindows | PackedExamples


@dataclasses.dataclass(frozen=True)
class Component:
  """A cache, and the rate of its examples in a mixture; 0: it is not trained on."""

  directory: str | os.PathLike[str]
  rate: float = 1.0


class IndexedReader:
  """An iterator over batches, with a position that can be saved and restored.

  Attributes:
    num_rows: rows per epoch, of all components together.
  """

  def __init__(
    self,
    caches: str | os.PathLike[str] | Sequence[Component],
    split: str,
    *,
    feature_lengths: Mapping[str, int],
    batch_size: int,
    seed: int,
    rows: Sequence[int] | np.ndarray | None = None,
    shuffle: bool = True,
    num_epochs: int | None = None,
    first_row: int = 0,
    pack: bool = True,
  ):
    """Opens one split of a cache or a mixture of caches.

    Args:
      caches: the directory of the cache, or the components; those without the split are left out.
      split: its name.
      feature_lengths: `{"inputs": S, "targets": T}`; for windows T is at least what S gives (114 for
        512), and what is beyond that is padding; examples are cut.
      batch_size: rows of the global batch.
      seed: of the order and the corruption, at least 0.
      rows: the places in the global batch, each in [0, batch_size), whose rows this process
        supplies; all of them if not given.
      shuffle: whether each epoch has a random order of its own, or the order of the stream.
      num_epochs: when to stop; never if not given. Components are then taken one after the other.
        The last batch is filled up with rows that are all padding: segment ids and loss weights 0.
      first_row: where to start, in rows since the beginning of the first epoch.
      pack: whether a row holds several examples of a task, or one; a window is always one.

    Raises:
      ConfigError: feature lengths that do not correspond, or another argument out of its range.
      DataError: a cache is missing or damaged, or its split is smaller than one window.
    """
    _check_range("batch_size", batch_size, 1)
    _check_range("seed", seed, 0)
    if num_epochs is not None:
      _check_range("num_epochs", num_epochs, 1)
    self._rows = np.arange(batch_size) if rows is None else np.asarray(rows, np.int64)
    for place in self._rows:
      _check_range("rows", int(place), 0, batch_size - 1)
    components = _components(caches, split)
    self._sources = _open(components, split, feature_lengths, seed, pack)
    lengths = [len(source) for source in self._sources]
    self.num_rows = sum(lengths)
    # Rates are those of examples: a component with several in a row needs fewer rows.
    rates = [
      Fraction(component.rate) * len(source) / source.num_examples
      for component, source in zip(components, self._sources, strict=True)
    ]
    self._order = mixing.RowOrder(lengths, rates, seed=seed, shuffle=shuffle, num_epochs=num_epochs)
    self._lengths = dict(feature_lengths)
    self._batch_size = batch_size
    self._rows_consumed: int = first_row
    self._batches = self._start(first_row)

  def __iter__(self) -> IndexedReader:
    return self

  def __next__(self) -> HostBatch:
    """Returns this process's rows of the next batch: the features of `switch_t5.batch`.

    Raises:
      DataError: a record of the cache cannot be read.
    """
    features = next(self._batches)
    self._rows_consumed = min(self._rows_consumed + self._batch_size, len(self._order))
    return features

  def state(self) -> dict[str, int]:
    """Returns the position: rows delivered, over all processes and epochs."""
    return {"rows_consumed": self._rows_consumed}

  def restore(self, state: Mapping[str, int]) -> None:
    """Goes on where a reader of the same cache, feature lengths and seed was."""
    self._batches.close()  # ends its thread
    self._batches = self._start(state["rows_consumed"])

  def _start(self, first_row: int) -> grain.DatasetIterator[HostBatch]:
    _check_range("first_row", first_row, 0)
    self._rows_consumed = first_row
    source = _Batches(
      self._sources, self._order, self._lengths, self._batch_size, self._rows, first_row
    )
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=_PREFETCHED_BATCHES)
    return iter(grain.MapDataset.source(source).to_iter_dataset(options))


class _Batches:
  """Batch k as a function of k: a random-access source for Grain."""

  def __init__(
    self,
    sources: Sequence[_Source],
    order: mixing.RowOrder,
    lengths: Mapping[str, int],
    batch_size: int,
    places: np.ndarray,
    first_row: int,
  ):
    self._sources, self._order, self._lengths = sources, order, lengths
    self._batch_size, self._places, self._first_row = batch_size, places, first_row

  def __len__(self) -> int:
    rows = max(len(self._order) - self._first_row, 0)
    return min(-(-rows // self._batch_size), sys.maxsize)

  def __getitem__(self, index: Any) -> HostBatch:
    first = self._first_row + int(index) * self._batch_size
    batch = _padding(len(self._places), self._lengths)
    wanted: dict[int, list[tuple[int, int, int]]] = {}  # by component
    for place, offset in enumerate(self._places.tolist()):
      if first + offset < len(self._order):
        component, row = self._order[first + offset]
        wanted.setdefault(component, []).append((place, row, first + offset))
    for component, rows in wanted.items():
      places, indices, numbers = zip(*rows, strict=True)
      read = self._sources[component].read(indices, numbers)
      for whole, part in zip(batch, read, strict=True):
        whole[list(places)] = part
    return _features(batch)


def _padding(rows: int, lengths: Mapping[str, int]) -> Rows:
  return Rows(
    *(np.zeros((rows, lengths[name]), np.int32) for name in (INPUTS,) * 2 + (TARGETS,) * 2)
  )


def _features(rows: Rows) -> HostBatch:
  """Returns the batch of rows: all targets that are no padding count."""
  return {
    batch_lib.ENCODER_INPUT_TOKENS: rows.inputs,
    batch_lib.ENCODER_SEGMENT_IDS: rows.input_segments,
    batch_lib.DECODER_INPUT_TOKENS: batch_lib.shift_right(rows.targets, rows.target_segments),
    batch_lib.DECODER_TARGET_TOKENS: rows.targets,
    batch_lib.DECODER_SEGMENT_IDS: rows.target_segments,
    batch_lib.DECODER_LOSS_WEIGHTS: (rows.target_segments > 0).astype(np.float32),
  }


def unigram_entropy(
  caches: str | os.PathLike[str] | Sequence[Component],
  split: str = documents.VALIDATION,
  *,
  feature_lengths: Mapping[str, int],
  seed: int = 0,
) -> float:
  """Returns the loss of the best model without context: nats per target token.

  It is the cross-entropy of the split's targets, sentinels and EOS included, under the frequencies
  of ids in the training targets, each counted once more than it occurs. Of a mixture the training
  frequencies are those of its components at their rates; the split is that of all components, one
  after the other. About 2000 rows of either split are looked at, spread evenly. A model that has
  learnt anything of the text is below it.
  """
  components = _components(caches, documents.TRAIN)
  sources = _open(components, documents.TRAIN, feature_lengths, seed, pack=False)
  total = sum(component.rate for component in components)
  per_row, sampled = np.zeros(sources[0].vocabulary_size), 0
  for component, source in zip(components, sources, strict=True):
    share = component.rate / total
    sample = _spread(len(source), math.ceil(_SAMPLED_ROWS * share))
    per_row += share / len(sample) * _target_counts(source, sample)
    sampled += len(sample)
  train = per_row * sampled + 1
  held_out = np.zeros_like(train)
  sources = _open(_components(caches, split), split, feature_lengths, seed, pack=False)
  order = mixing.OneAfterTheOther([len(source) for source in sources], num_epochs=1)
  chosen = [order[row] for row in _spread(len(order), _SAMPLED_ROWS)]
  for number, source in enumerate(sources):
    sample = [row for component, row in chosen if component == number]
    held_out += _target_counts(source, sample)
  nats = np.log(train.sum()) - np.log(train)
  return float((held_out * nats).sum() / held_out.sum())


def _spread(length: int, count: int) -> list[int]:
  """Returns at most `count` of the numbers below `length`, evenly."""
  return np.unique(np.linspace(0, length - 1, count).astype(np.int64)).tolist()


def _target_counts(source: _Source, sample: Sequence[int]) -> np.ndarray:
  """Returns how often each id occurs in the targets of some rows: int64 [vocabulary]."""
  if not sample:
    return np.zeros(source.vocabulary_size, np.int64)
  rows = source.read(sample, sample)
  return np.bincount(rows.targets[rows.target_segments > 0], minlength=source.vocabulary_size)


def _components(
  caches: str | os.PathLike[str] | Sequence[Component], split: str
) -> Sequence[Component]:
  """Returns the components that a split is read from: those which have it, at a rate if to train.

  All of them if there is none, so that the first one is refused.
  """
  components = [Component(caches)] if isinstance(caches, str | os.PathLike) else caches
  reading = [
    component
    for component in components
    if split in cache.read_info(component.directory).splits
    and (component.rate > 0 or split != documents.TRAIN)
  ]
  return reading or components


def _open(
  components: Sequence[Component],
  split: str,
  feature_lengths: Mapping[str, int],
  seed: int,
  pack: bool,
) -> list[_Source]:
  if set(feature_lengths) != {INPUTS, TARGETS}:
    raise errors.ConfigError(
      "The feature lengths do not name the features of an encoder-decoder model.",
      value=dict(feature_lengths),
      rule=f"one length for {INPUTS!r} and one for {TARGETS!r}",
      remedy="set TASK_FEATURE_LENGTHS = {'inputs': 512, 'targets': 114}.",
    )
  return [
    PackedExamples(component.directory, split, feature_lengths, seed, pack=pack)
    if cache.read_info(component.directory).kind == cache.EXAMPLES
    else CorruptedWindows(component.directory, split, feature_lengths, seed)
    for component in components
  ]


def _check_range(name: str, value: int, least: int, most: int | None = None) -> None:
  if value < least or (most is not None and value > most):
    raise errors.ConfigError(
      f"{name} of the reader is out of its range.",
      value=value,
      rule=f"at least {least}" + ("" if most is None else f" and at most {most}"),
      remedy=f"give {name} in that range.",
    )
