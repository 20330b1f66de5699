# SPDX-License-Identifier: Apache-2.0
"""Rows that readers deliver, joined and compared."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np

from switch_t5 import batch
from switch_t5.types import HostBatch


def join(batches: Iterable[HostBatch]) -> HostBatch:
  """Returns the batches as one."""
  batches = list(batches)
  return {name: np.concatenate([b[name] for b in batches]) for name in batch.FEATURES}


def take(reader: Iterable[HostBatch], n: int) -> HostBatch:
  """Returns the next n batches as one."""
  return join(itertools.islice(reader, n))


def assert_equal(a: HostBatch, b: HostBatch) -> None:
  """Holds that two batches have the same features, bit for bit."""
  for name in batch.FEATURES:
    np.testing.assert_array_equal(a[name], b[name], err_msg=name)
