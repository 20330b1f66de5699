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


class _Reader:
  """A reader that changes some of its batches, by their numbers."""

  def __init__(self, reader, numbers: Collection[int], *, missing: bool):
    self._reader, self._numbers, self._missing = reader, numbers, missing

  def __getattr__(self, name):
    return getattr(self._reader, name)

  def __iter__(self):
    return self

  def __next__(self):
    number = self._reader.state()["rows_consumed"] // ROWS
    batch = next(self._reader)
    if number not in self._numbers:
      return batch
    if self._missing:
      return next(self)
    weights = np.full_like(batch["decoder_loss_weights"], math.inf)
    return batch | {"decoder_loss_weights": weights}


@contextlib.contextmanager
def bad_batches(numbers: Collection[int], *, missing: bool = False) -> Iterator[None]:
  """Gives runs in this process batches of these numbers whose weights are infinite; or none of them."""
  make = IndexedData.train_reader

  def train_reader(data, rows):
    return _Reader(make(data, rows), numbers, missing=missing)

  with mock.patch.object(IndexedData, "train_reader", train_reader):
    yield
