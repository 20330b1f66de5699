# SPDX-License-Identifier: Apache-2.0
"""Mixing by rate: the shares, and that each row of a component comes once, in its order."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from switch_t5.data import mixing

RATES = {
  "one": [3.0],
  "equal": [1.0, 1.0],
  "two": [0.7, 0.3],
  "rare": [1e-3, 1.0],
  "three": [Fraction(1, 3), Fraction(1, 7), 2],
  "golden": [1.618**k for k in range(12)],
  "many": (np.random.default_rng(0).uniform(1e3, 1e9, 107) ** 0.3).tolist(),
}


def _counts(rates, rows) -> np.ndarray:
  """Returns how many rows of each component come before each row, by taking them: [rows, n]."""
  mixed = mixing.MixedByRate(rates)
  counts = np.zeros((rows + 1, len(rates)), np.int64)
  for row in range(rows):
    component, number = mixed[row]
    assert number == counts[row, component]  # its rows come in order, each once
    counts[row + 1] = counts[row]
    counts[row + 1, component] += 1
  return counts


@pytest.mark.parametrize("name", RATES)
def test_components_have_their_rates_over_every_prefix(name):
  rates = RATES[name]
  counts = _counts(rates, 3000)
  shares = np.array([float(Fraction(rate) / sum(map(Fraction, rates))) for rate in rates])
  distance = np.abs(counts - np.arange(len(counts))[:, None] * shares).max()
  assert distance <= (0.5 + 1e-9 if len(rates) <= 2 else 2)


def test_shares_stay_exact_far_out():
  rates = RATES["many"]
  mixed = mixing.MixedByRate(rates)
  shares = [Fraction(rate) / sum(map(Fraction, rates)) for rate in rates]
  far = 10**15
  for row in range(far, far + 2000):
    component, number = mixed[row]
    assert abs(number - row * shares[component]) <= 2


def test_rates_are_proportions():
  for row in range(200):
    assert mixing.MixedByRate([1, 2, 4])[row] == mixing.MixedByRate([0.25, 0.5, 1.0])[row]


def test_the_order_of_a_mixture_never_changes_between_versions():
  # By hand: the third and the pair of the others take turns; within the pair they do so too.
  mixed = mixing.MixedByRate([1, 1, 2])
  assert [mixed[row][0] for row in range(8)] == [2, 0, 2, 1, 2, 0, 2, 1]


def test_components_follow_each_other_in_every_pass():
  order = mixing.OneAfterTheOther([2, 1, 3], num_epochs=2)
  once = [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (2, 2)]
  twice = [(0, 2), (0, 3), (1, 1), (2, 3), (2, 4), (2, 5)]
  assert [order[row] for row in range(len(order))] == once + twice


def test_every_epoch_of_a_component_holds_its_rows_once_in_an_order_of_its_own():
  order = mixing.RowOrder([10, 10], [3, 1], seed=1, shuffle=True, num_epochs=None)
  rows = [order[row] for row in range(80)]
  first, second = ([row for c, row in rows if c == component] for component in (0, 1))
  epochs = [*np.split(np.array(first), 6), *np.split(np.array(second), 2)]
  assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
  assert len({tuple(epoch.tolist()) for epoch in epochs}) == 8
