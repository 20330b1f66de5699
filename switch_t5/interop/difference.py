# SPDX-License-Identifier: Apache-2.0
"""How two checkpoints differ, whatever formats they have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from switch_t5.interop.checkpoint import PARAMETERS, StoredArray, StoredCheckpoint

_BLOCK = 1 << 20  # elements compared at a time


class Difference(NamedTuple):
  """One array that is not the same in both.

  Attributes:
    name: in T5X.
    first, second: dtype and shape in each; None where it is not there.
    largest: the largest absolute difference of two elements, nan if only one is a number; None if
      dtype and shape say enough.
    differing: how many elements differ; two nan do not.
  """

  name: str
  first: str | None
  second: str | None
  largest: float | None = None
  differing: int | None = None

  def __str__(self) -> str:
    if self.first is None or self.second is None:
      return f"{'-' if self.second is None else '+'} {self.name}  {self.first or self.second}"
    if self.largest is None:
      return f"~ {self.name}  {self.first} -> {self.second}"
    kind = self.first if self.first == self.second else f"{self.first} -> {self.second}"
    return f"~ {self.name}  {kind}  {self.differing:,} elements differ, by up to {self.largest:.6g}"


def compared(first: StoredCheckpoint, second: StoredCheckpoint) -> tuple[list[str], str]:
  """Returns the names that are compared, and what to say of those that are not.

  Parameters always; the optimizer's state and the step if both checkpoints have them.
  """
  both = [_has_state(first), _has_state(second)]
  names = list(dict.fromkeys([*first.arrays, *second.arrays]))
  if all(both) or not any(both):
    return names, ""
  left = [name for name in names if name.startswith(PARAMETERS)]
  only = first if both[0] else second
  return left, f"Only {only.path} has step and optimizer state: not compared."


def differences(first: StoredCheckpoint, second: StoredCheckpoint) -> Iterator[Difference]:
  """Yields each array that differs; two arrays are in memory at a time."""
  names, _ = compared(first, second)
  for name in names:
    a, b = first.arrays.get(name), second.arrays.get(name)
    if a is None or b is None or a.shape != b.shape:
      yield Difference(name, None if a is None else str(a), None if b is None else str(b))
      continue
    if difference := _compare(name, a, b):
      yield difference


def _compare(name: str, a: StoredArray, b: StoredArray) -> Difference | None:
  x, y = a.read().reshape(-1), b.read().reshape(-1)
  differing, largest = 0, 0.0
  for start in range(0, x.size, _BLOCK):
    p, q = (z[start : start + _BLOCK].astype(np.float64) for z in (x, y))
    differ = (p != q) & ~(np.isnan(p) & np.isnan(q))
    if differ.any():
      differing += int(differ.sum())
      with np.errstate(invalid="ignore"):  # inf - inf
        largest = float(np.max(np.abs(p - q)[differ], initial=largest))
  if not differing and a.dtype == b.dtype:
    return None
  return Difference(name, str(a), str(b), largest, differing)


def _has_state(checkpoint: StoredCheckpoint) -> bool:
  return any(not name.startswith(PARAMETERS) for name in checkpoint.arrays)
