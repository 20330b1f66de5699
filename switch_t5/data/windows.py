# SPDX-License-Identifier: Apache-2.0
"""The rows of a cache of tokens: windows of its stream, corrupted when they are read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from switch_t5 import errors
from switch_t5.data import span_corruption, token_stream

INPUTS = "inputs"
TARGETS = "targets"


class Rows(NamedTuple):
  """Examples in n rows, padded.

  Attributes:
    inputs: int32 [n, S].
    input_segments: int32 [n, S], the number of the example in its row from 1, 0 on padding.
    targets: int32 [n, T].
    target_segments: int32 [n, T].
  """

  inputs: np.ndarray
  input_segments: np.ndarray
  targets: np.ndarray
  target_segments: np.ndarray


class CorruptedWindows:
  """A split's stream, cut into windows of the length that fills the inputs.

  What remains at the end of the stream is left out.

  Attributes:
    name: of the task.
    length: of a window, in tokens.
    num_examples: windows.
    vocabulary_size: number of ids.
  """

  def __init__(
    self,
    directory: str | os.PathLike[str],
    split: str,
    feature_lengths: Mapping[str, int],
    seed: int,
  ):
    """Opens one split of a cache of tokens.

    Raises:
      ConfigError: feature lengths that do not correspond.
      DataError: the cache is missing or damaged, or the split is smaller than one window.
    """
    self._stream = token_stream.TokenStream(directory, split)
    self._vocabulary = self._stream.info.vocabulary
    self.name = self._stream.info.task
    self.vocabulary_size = int(self._vocabulary["size"])
    self._inputs_length, self._targets_length = feature_lengths[INPUTS], feature_lengths[TARGETS]
    self.length = span_corruption.check_lengths(
      self._inputs_length, self._targets_length, int(self._vocabulary["extra_ids"])
    )
    self._seed = seed
    self.num_examples = self._stream.tokens // self.length
    if not self.num_examples:
      raise errors.DataError(
        f"The {split} split of {self.name} is smaller than one row.",
        value=f"{self._stream.tokens} tokens",
        rule=f"a row with inputs={self._inputs_length} takes a window of {self.length} tokens",
        remedy="give more text (5% of the documents are held out for validation, and blank lines "
        "separate documents), or shorter TASK_FEATURE_LENGTHS.",
      )

  def __len__(self) -> int:
    return self.num_examples

  def read(self, indices: Sequence[int], rows: Sequence[int]) -> Rows:
    """Returns windows, each corrupted with the random numbers of a row of the data set.

    Args:
      indices: which windows, [n], n at least 1.
      rows: numbers of the rows they become, [n].
    """
    tokens = [self._stream.read(i * self.length, (i + 1) * self.length) for i in indices]
    inputs, targets = span_corruption.corrupt(
      np.stack(tokens),
      self._seed,
      rows,
      top_id=self.vocabulary_size - 1,
      eos_id=int(self._vocabulary["eos_id"]),
    )
    padding = ((0, 0), (0, self._targets_length - targets.shape[1]))
    return Rows(
      inputs, np.ones_like(inputs), np.pad(targets, padding), np.pad(np.ones_like(targets), padding)
    )
