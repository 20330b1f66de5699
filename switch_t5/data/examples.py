# SPDX-License-Identifier: Apache-2.0
"""The rows of a cache of examples: several examples in a row, or one.

Examples lie one after the other in the split's stream, the inputs of each before its targets, and a
file of lengths says where. What is longer than its feature is cut, as seqio cuts it: where the task
appends EOS after trimming, the last token of what is cut is EOS.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
from absl import logging

from switch_t5 import errors
from switch_t5.data import example_cache, packing, token_stream
from switch_t5.data.windows import INPUTS, TARGETS, Rows


class PackedExamples:
  """A split's examples, in rows that are planned from their lengths.

  A row's examples are numbered from 1, left to right, alike in inputs and targets. An example
  without targets has a number too.

  Attributes:
    name: of the task.
    num_examples: of an epoch.
    vocabulary_size: number of ids.
  """

  def __init__(
    self,
    directory: str | os.PathLike[str],
    split: str,
    feature_lengths: Mapping[str, int],
    seed: int,
    *,
    pack: bool,
  ):
    """Opens one split of a cache of examples, and plans its rows.

    Args:
      directory: of the cache.
      split: its name.
      feature_lengths: `{"inputs": S, "targets": T}`.
      seed: of which examples share a row.
      pack: whether examples share rows; if not, row i is example i.

    Raises:
      DataError: the cache is missing or damaged, or the split has no example.
    """
    self._stream = token_stream.TokenStream(directory, split)
    info = self._stream.info
    self.name, self.vocabulary_size = info.task, int(info.vocabulary["size"])
    self._eos_id, self._kept_eos = int(info.vocabulary["eos_id"]), info.kept_eos
    self._lengths = (feature_lengths[INPUTS], feature_lengths[TARGETS])
    whole = example_cache.read_lengths(directory, info.splits[split])
    self.num_examples = len(whole)
    if not self.num_examples:
      raise errors.DataError(
        f"The {split} split of {self.name} is empty.",
        value="0 examples",
        rule="at least one example",
        remedy="check the task's source, and the steps of it that filter examples",
      )
    # Where the inputs and the targets of each example begin, and how long they are in a row.
    self._starts = (np.cumsum(whole.ravel(), dtype=np.int64) - whole.ravel()).reshape(whole.shape)
    self._cut = whole > self._lengths
    self._sizes = np.minimum(whole, self._lengths)
    if pack:
      self._plan = packing.first_fit(self._sizes, self._lengths, seed)
      filled = self._sizes.sum(axis=0) / len(self._plan) / self._lengths
      logging.info(
        "%s: %d examples in %d rows; %.0f%% of the inputs and %.0f%% of the targets are tokens.",
        *(self.name, self.num_examples, len(self._plan), *(100 * filled)),
      )
    else:
      self._plan = packing.one_per_row(self.num_examples)

  def __len__(self) -> int:
    return len(self._plan)

  def read(self, indices: Sequence[int], rows: Sequence[int]) -> Rows:
    """Returns rows of the plan.

    Args:
      indices: which rows, [n], n at least 1.
      rows: their numbers in the data set, [n], of no account: nothing is drawn at random.
    """
    del rows
    tokens = [np.zeros((len(indices), length), np.int32) for length in self._lengths]
    segments = [np.zeros_like(array) for array in tokens]
    for place, index in enumerate(indices):
      ends = [0, 0]
      for segment, example in enumerate(self._plan[index].tolist(), start=1):
        for side, piece in enumerate(self._read_example(example)):
          start, ends[side] = ends[side], ends[side] + len(piece)
          tokens[side][place, start : ends[side]] = piece
          segments[side][place, start : ends[side]] = segment
    return Rows(tokens[0], segments[0], tokens[1], segments[1])

  def _read_example(self, example: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns inputs and targets, cut to their lengths: int32 [tokens] each."""
    (inputs, targets), (inputs_size, targets_size) = self._starts[example], self._sizes[example]
    if self._cut[example, 0]:  # what is cut off is not read
      pieces = (
        self._stream.read(int(inputs), int(inputs + inputs_size)),
        self._stream.read(int(targets), int(targets + targets_size)),
      )
    else:
      read = self._stream.read(int(inputs), int(targets + targets_size))
      pieces = read[:inputs_size], read[inputs_size:]
    for side, name in enumerate((INPUTS, TARGETS)):
      if self._cut[example, side] and name in self._kept_eos:
        pieces[side][-1] = self._eos_id
    return pieces
