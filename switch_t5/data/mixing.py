# SPDX-License-Identifier: Apache-2.0
"""Which component of a mixture a row comes from, and which of the component's rows it is.

Both orders here answer for any row at once: nothing is kept, and nothing is drawn at random. Rates
are exact fractions. Grain's own mixing rounds them to a hundredth of the smallest rate, so it would
leave the stated rates by ever more rows.
"""

from __future__ import annotations

import bisect
import dataclasses
import heapq
import itertools
import math
import sys
from collections.abc import Sequence
from fractions import Fraction

import grain


@dataclasses.dataclass(frozen=True)
class _Pair:
  """An inner node of the tree of components: of each `total` rows, `first` go to the left."""

  left: int | _Pair
  right: int | _Pair
  first: int
  total: int


class MixedByRate:
  """An endless order in which each component has its rate over every stretch of rows.

  Two components share rows as evenly as whole rows allow: after k rows the first has k times its
  share, rounded. More are paired up, the two rarest first, and a pair counts as one. So every
  component is at all times within two rows of its exact share, or within half a row if there are two.
  """

  def __init__(self, rates: Sequence[Fraction | float]):
    """Takes positive, finite rates, which need not sum to 1."""
    exact = [Fraction(rate) for rate in rates]
    scale = math.lcm(*(rate.denominator for rate in exact))
    # The second entry makes equal weights come in a fixed order; nodes are not compared.
    heap: list[tuple[int, int, int | _Pair]] = [
      (int(rate * scale), index, index) for index, rate in enumerate(exact)
    ]
    heapq.heapify(heap)
    for number in itertools.count(len(exact)):
      if len(heap) == 1:
        break
      (a, _, left), (b, _, right) = heapq.heappop(heap), heapq.heappop(heap)
      heapq.heappush(heap, (a + b, number, _Pair(left, right, a, a + b)))
    self._root = heap[0][2]

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, row: int) -> tuple[int, int]:
    """Returns the component of a row, and how many rows of that component come before it."""
    node = self._root
    while isinstance(node, _Pair):
      before, after = (
        (2 * k * node.first + node.total) // (2 * node.total) for k in (row, row + 1)
      )
      node, row = (node.left, before) if after > before else (node.right, row - before)
    return node, row


class OneAfterTheOther:
  """A finite order: all rows of the first component, then of the second, ...; and again."""

  def __init__(self, lengths: Sequence[int], num_epochs: int):
    self._lengths, self._num_epochs = lengths, num_epochs
    self._ends = list(itertools.accumulate(lengths))

  def __len__(self) -> int:
    return self._ends[-1] * self._num_epochs

  def __getitem__(self, row: int) -> tuple[int, int]:
    """Returns the component of a row, and how many rows of that component come before it."""
    epoch, row = divmod(row, self._ends[-1])
    component = bisect.bisect_right(self._ends, row)
    length = self._lengths[component]
    return component, row - (self._ends[component] - length) + epoch * length


class RowOrder:
  """Which component a row is read from, and the index there: epochs, shuffled if so wished."""

  def __init__(
    self,
    lengths: Sequence[int],
    rates: Sequence[Fraction | float],
    *,
    seed: int,
    shuffle: bool,
    num_epochs: int | None,
  ):
    """Mixes components of so many rows by rate, without end; or takes them one after the other.

    Args:
      lengths: rows of an epoch of each component.
      rates: of rows; of no account if `num_epochs` is given.
      seed: of the shuffles; every epoch of every component has a shuffle of its own.
      shuffle: whether there are shuffles.
      num_epochs: passes over the components in turn; None: a mixture without end.
    """
    self._mixing = (
      MixedByRate(rates) if num_epochs is None else OneAfterTheOther(lengths, num_epochs)
    )
    epochs = [grain.MapDataset.range(length) for length in lengths]
    if shuffle:
      epochs = [rows.seed(seed + component).shuffle() for component, rows in enumerate(epochs)]
    self._orders = [rows.repeat(num_epochs) for rows in epochs]

  def __len__(self) -> int:
    return len(self._mixing)

  def __getitem__(self, row: int) -> tuple[int, int]:
    """Returns the component of a row, and the index of what is read there."""
    component, row = self._mixing[row]
    return component, self._orders[component][row]
