# SPDX-License-Identifier: Apache-2.0
"""The indexed reader: batches of a cache, addressed by the number of the row.

A split's token stream is cut into windows of the length that fills the inputs (568 tokens for 512
inputs; what remains at the end is left out). An epoch is all windows in a random order of its own.
*Row* i, counted over all epochs, is a function of (seed, i) alone: i says which window, and the
random numbers that corrupt it. So the position in the data is one integer, the number of rows that
were delivered; seeking costs nothing; and any number of processes, each supplying its rows of every
global batch, sees each row exactly once, also when their number or the batch size changes.

Rows are read and corrupted in a thread of Grain, ahead of their use.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import grain
import numpy as np

from switch_t5 import batch as batch_lib
from switch_t5 import errors
from switch_t5.data import documents, span_corruption, token_stream
from switch_t5.types import HostBatch

INPUTS = "inputs"
TARGETS = "targets"
_PREFETCHED_BATCHES = 4
_SAMPLED_ROWS = 2000


class IndexedReader:
  """An iterator over batches, with a position that can be saved and restored.

  Attributes:
    num_rows: rows per epoch.
    window: tokens per row, before corruption.
  """

  def __init__(
    self,
    directory: str | os.PathLike[str],
    split: str,
    *,
    feature_lengths: Mapping[str, int],
    batch_size: int,
    seed: int,
    rows: Sequence[int] | np.ndarray | None = None,
    shuffle: bool = True,
    num_epochs: int | None = None,
    first_row: int = 0,
  ):
    """Opens one split of a cache.

    Args:
      directory: of the cache.
      split: its name.
      feature_lengths: `{"inputs": S, "targets": T}`; T is at least what S gives (114 for 512), and
        what is beyond that is padding.
      batch_size: rows of the global batch.
      seed: of the order and the corruption, at least 0.
      rows: the places in the global batch, each in [0, batch_size), whose rows this process
        supplies; all of them if not given.
      shuffle: whether each epoch has a random order of its own, or the order of the stream.
      num_epochs: when to stop; never if not given. The last batch is filled up with rows that are
        all padding: segment ids and loss weights 0.
      first_row: where to start, in rows since the beginning of the first epoch.

    Raises:
      ConfigError: feature lengths that do not correspond, or another argument out of its range.
      DataError: the cache is missing or damaged, or the split is smaller than one window.
    """
    _check_range("batch_size", batch_size, 1)
    _check_range("seed", seed, 0)
    if num_epochs is not None:
      _check_range("num_epochs", num_epochs, 1)
    self._rows = np.arange(batch_size) if rows is None else np.asarray(rows, np.int64)
    for place in self._rows:
      _check_range("rows", int(place), 0, batch_size - 1)
    self._windows = _CorruptedWindows(directory, split, feature_lengths, seed)
    self.num_rows, self.window = len(self._windows), self._windows.length
    order = grain.MapDataset.range(self.num_rows)
    if shuffle:
      order = order.seed(seed).shuffle()
    self._order = order.repeat(num_epochs)
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
    source = _Batches(self._windows, self._order, self._batch_size, self._rows, first_row)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=_PREFETCHED_BATCHES)
    return iter(grain.MapDataset.source(source).to_iter_dataset(options))


class _CorruptedWindows:
  """The windows of a split, corrupted on demand."""

  def __init__(
    self,
    directory: str | os.PathLike[str],
    split: str,
    feature_lengths: Mapping[str, int],
    seed: int,
  ):
    self._stream = token_stream.TokenStream(directory, split)
    self._vocabulary = self._stream.info.vocabulary
    self.inputs_length, self.targets_length = _lengths(feature_lengths)
    self.length = span_corruption.check_lengths(
      self.inputs_length, self.targets_length, int(self._vocabulary["extra_ids"])
    )
    self._seed = seed
    if self._stream.tokens < self.length:
      raise errors.DataError(
        f"The {split} split is smaller than one row.",
        value=f"{self._stream.tokens} tokens",
        rule=f"a row with inputs={self.inputs_length} takes a window of {self.length} tokens",
        remedy="give more text (5% of the documents are held out for validation, and blank lines "
        "separate documents), or shorter TASK_FEATURE_LENGTHS.",
      )

  def __len__(self) -> int:
    return self._stream.tokens // self.length

  @property
  def vocabulary_size(self) -> int:
    return int(self._vocabulary["size"])

  def corrupt(self, windows: Sequence[int], rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns inputs and targets of windows, each with the random numbers of a row."""
    tokens = [self._stream.read(w * self.length, (w + 1) * self.length) for w in windows]
    return span_corruption.corrupt(
      np.stack(tokens),
      self._seed,
      rows,
      top_id=self.vocabulary_size - 1,
      eos_id=int(self._vocabulary["eos_id"]),
    )


class _Batches:
  """Batch k as a function of k: a random-access source for Grain."""

  def __init__(
    self,
    windows: _CorruptedWindows,
    order: grain.MapDataset,
    batch_size: int,
    places: np.ndarray,
    first_row: int,
  ):
    self._windows, self._order, self._places = windows, order, places
    self._batch_size, self._first_row = batch_size, first_row

  def __len__(self) -> int:
    rows = max(len(self._order) - self._first_row, 0)
    return min(-(-rows // self._batch_size), sys.maxsize)

  def __getitem__(self, index: Any) -> HostBatch:
    first = self._first_row + int(index) * self._batch_size
    rows = [first + int(p) for p in self._places if first + int(p) < len(self._order)]
    inputs = np.zeros((len(self._places), self._windows.inputs_length), np.int32)
    targets = np.zeros((len(self._places), self._windows.targets_length), np.int32)
    real = np.array([first + int(p) < len(self._order) for p in self._places], bool)
    width = 0
    if rows:
      corrupted = self._windows.corrupt([self._order[row] for row in rows], rows)
      width = corrupted[1].shape[1]
      inputs[real] = corrupted[0]
      targets[real, :width] = corrupted[1]
    return _features(inputs, targets, real, width)


def _features(inputs: np.ndarray, targets: np.ndarray, real: np.ndarray, width: int) -> HostBatch:
  """Returns the batch of one example per row; the first `width` targets of real rows count."""
  encoder_segment_ids = np.broadcast_to(real[:, None], inputs.shape).astype(np.int32)
  decoder_segment_ids = np.zeros(targets.shape, np.int32)
  decoder_segment_ids[real, :width] = 1
  return {
    batch_lib.ENCODER_INPUT_TOKENS: inputs,
    batch_lib.ENCODER_SEGMENT_IDS: encoder_segment_ids,
    batch_lib.DECODER_INPUT_TOKENS: batch_lib.shift_right(targets, decoder_segment_ids),
    batch_lib.DECODER_TARGET_TOKENS: targets,
    batch_lib.DECODER_SEGMENT_IDS: decoder_segment_ids,
    batch_lib.DECODER_LOSS_WEIGHTS: decoder_segment_ids.astype(np.float32),
  }


def unigram_entropy(
  directory: str | os.PathLike[str],
  split: str = documents.VALIDATION,
  *,
  feature_lengths: Mapping[str, int],
  seed: int = 0,
) -> float:
  """Returns the loss of the best model without context: nats per target token.

  It is the cross-entropy of the split's targets, sentinels and EOS included, under the frequencies
  of ids in the training targets, each counted once more than it occurs. At most 2000 rows of either
  split are looked at, spread evenly. A model that has learnt anything of the text is below it.
  """
  train = _target_counts(directory, documents.TRAIN, feature_lengths, seed) + 1
  held_out = _target_counts(directory, split, feature_lengths, seed)
  nats = np.log(train.sum()) - np.log(train)
  return float((held_out * nats).sum() / held_out.sum())


def _target_counts(
  directory: str | os.PathLike[str], split: str, feature_lengths: Mapping[str, int], seed: int
) -> np.ndarray:
  """Returns how often each id occurs in a sample of the split's targets: int64 [vocabulary]."""
  windows = _CorruptedWindows(directory, split, feature_lengths, seed)
  sample = np.unique(np.linspace(0, len(windows) - 1, _SAMPLED_ROWS).astype(np.int64)).tolist()
  _, targets = windows.corrupt(sample, sample)
  return np.bincount(targets.ravel(), minlength=windows.vocabulary_size)


def _lengths(feature_lengths: Mapping[str, int]) -> tuple[int, int]:
  if set(feature_lengths) != {INPUTS, TARGETS}:
    raise errors.ConfigError(
      "The feature lengths do not name the features of span corruption.",
      value=dict(feature_lengths),
      rule=f"one length for {INPUTS!r} and one for {TARGETS!r}",
      remedy="set TASK_FEATURE_LENGTHS = {'inputs': 512, 'targets': 114}.",
    )
  return feature_lengths[INPUTS], feature_lengths[TARGETS]


def _check_range(name: str, value: int, least: int, most: int | None = None) -> None:
  if value < least or (most is not None and value > most):
    raise errors.ConfigError(
      f"{name} of the reader is out of its range.",
      value=value,
      rule=f"at least {least}" + ("" if most is None else f" and at most {most}"),
      remedy=f"give {name} in that range.",
    )
