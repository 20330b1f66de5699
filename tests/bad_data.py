# SPDX-License-Identifier: Apache-2.0
"""Batches of a run that are bad, or missing."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Iterator
from unittest import mock

import numpy as np

from switch_t5.cli.run_data import IndexedData

ROWS = 8  # of a batch of the tiny run
# What becomes of a batch: its weights are infinite, its targets are absurd, or it is not there.
NOT_FINITE, SPIKE, MISSING = "not finite", "spike", "missing"


class _Reader:
  """A reader that changes some of its batches, by their numbers."""

  def __init__(self, reader, numbers: Collection[int], how: str):
    self._reader, self._numbers, self._how = reader, numbers, how

  def __getattr__(self, name):
    return getattr(self._reader, name)

  def __iter__(self):
    return self

  def __next__(self):
    number = self._reader.state()["rows_consumed"] // ROWS
    batch = next(self._reader)
    if number not in self._numbers:
      return batch
    if self._how == MISSING:
      return next(self)
    if self._how == SPIKE:  # the last pieces of the vocabulary, which no text has
      return batch | {"decoder_target_tokens": 7900 + batch["decoder_target_tokens"] % 90}
    weights = np.full_like(batch["decoder_loss_weights"], math.inf)
    return batch | {"decoder_loss_weights": weights}


@contextlib.contextmanager
def bad_batches(numbers: Collection[int], how: str = NOT_FINITE) -> Iterator[None]:
  """Gives runs in this process batches of these numbers that are bad, or none of them."""
  make = IndexedData.train_reader

  def train_reader(data, rows):
    return _Reader(make(data, rows), numbers, how)

  with mock.patch.object(IndexedData, "train_reader", train_reader):
    yield
