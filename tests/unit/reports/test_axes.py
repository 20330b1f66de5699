# SPDX-License-Identifier: Apache-2.0
"""Ticks, and points that are left out."""

from __future__ import annotations

import math

import pytest

from switch_t5.reports import axes
from switch_t5.reports.svg import Line


@pytest.mark.parametrize(
  ("low", "high", "expected"),
  [
    (0.0, 450.0, [0, 200, 400, 600]),
    (4.62, 9.1, [4, 6, 8, 10]),
    (0.0, 0.0, [0.0, 0.25]),
    (-2.0, -1.0, [-2.0, -1.75, -1.5, -1.25, -1.0]),
  ],
)
def test_ticks_are_round_and_span_the_values(low, high, expected):
  assert axes.ticks(low, high) == pytest.approx(expected)


def test_equal_values_have_two_ticks_around_them():
  found = axes.ticks(3.0, 3.0)
  assert len(found) >= 2
  assert found[0] <= 3.0 <= found[-1]


def test_few_points_stay_as_they_are():
  points = [(1.0, 2.0), (2.0, math.nan)]
  assert axes.thin(points) == points


def test_of_many_points_the_extremes_and_the_ends_stay():
  points = [(float(i), 0.0) for i in range(100_000)]
  points[54_321] = (54_321.0, 9.0)
  points[77] = (77.0, -9.0)
  points[500] = (500.0, math.nan)
  kept = axes.thin(points)
  assert len(kept) <= 404
  assert {points[0], points[77], points[54_321], points[-1]} <= set(kept)
  assert kept == sorted(kept)


def test_an_extent_passes_over_what_is_not_finite():
  line = Line("a", [(1.0, math.nan), (2.0, 5.0), (3.0, math.inf)])
  assert axes.extent([line]) == ((2.0, 5.0), (2.0, 5.0))
  assert axes.extent([Line("a", [(1.0, math.nan)])]) is None


@pytest.mark.parametrize(
  ("value", "text"), [(20_000.0, "20,000"), (0.25, "0.25"), (1e-5, "1e-05"), (0.0, "0")]
)
def test_numbers_of_ticks_are_short(value, text):
  assert axes.plain(value) == text
