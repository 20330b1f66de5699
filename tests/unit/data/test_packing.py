# SPDX-License-Identifier: Apache-2.0
"""The plan of which examples share a row."""

from __future__ import annotations

import numpy as np
import pytest

from switch_t5.data import packing

ROW = (64, 16)


def _lengths(n, seed=0) -> np.ndarray:
  random = np.random.default_rng(seed)
  return np.stack([random.integers(0, 65, n), random.integers(0, 17, n)], axis=1)


def _naive_first_fit(lengths, order) -> list[list[int]]:
  """The rows, by looking through a list of the open ones."""
  rows, opened = [], []
  for example in order:
    for row in opened:
      if all(lengths[[*row, example]].sum(axis=0) <= ROW):
        row.append(example)
        break
    else:
      rows.append([example])
      opened = [*opened, rows[-1]][-32:]
  return rows


@pytest.mark.parametrize("n", [0, 1, 2, 500])
def test_every_example_is_in_one_row_and_every_row_has_room(n):
  lengths = _lengths(n)
  plan = packing.first_fit(lengths, ROW, seed=3)
  rows = [plan[row] for row in range(len(plan))]
  assert sorted(example for row in rows for example in row) == list(range(n))
  assert all(len(row) and (lengths[row].sum(axis=0) <= ROW).all() for row in rows)


def test_rows_are_those_of_first_fit_in_a_random_order():
  lengths = _lengths(500)
  order = np.argsort(np.random.Philox(key=3).random_raw(500))
  plan = packing.first_fit(lengths, ROW, seed=3)
  rows = [plan[row].tolist() for row in range(len(plan))]
  assert rows == _naive_first_fit(lengths, order.tolist())


def test_the_plan_follows_from_the_seed():
  lengths = _lengths(100)
  plans = [packing.first_fit(lengths, ROW, seed).examples.tolist() for seed in (1, 1, 2)]
  assert plans[0] == plans[1] != plans[2]


def test_short_examples_fill_their_rows():
  random = np.random.default_rng(0)
  lengths = np.stack([random.integers(5, 30, 5000), np.full(5000, 2)], axis=1)
  plan = packing.first_fit(lengths, ROW, seed=0)
  assert lengths[:, 0].sum() / (len(plan) * ROW[0]) > 0.95


def test_without_packing_row_i_is_example_i():
  plan = packing.one_per_row(5)
  assert [plan[row].tolist() for row in range(len(plan))] == [[0], [1], [2], [3], [4]]
