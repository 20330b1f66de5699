# SPDX-License-Identifier: Apache-2.0
"""What a study reads from a run's metrics, against numbers worked out by hand."""

from __future__ import annotations

import pytest

from switch_t5.studies import curves
from switch_t5.studies.curves import Run


def run_of(losses, rates=(100.0,), steps=100, **more):
  """Returns a run with held-out losses at 10, 20, ... and tokens a second."""
  metrics = {
    "eval/text/cross_entropy": [(10 * (i + 1), loss) for i, loss in enumerate(losses)],
    "train/tokens_per_second": [(10 * (i + 1), rate) for i, rate in enumerate(rates)],
  }
  return Run("arm", 0, steps, "text", metrics, **more)


def test_quality_is_that_of_the_last_step_or_none():
  assert curves.quality(run_of([5.0, 4.0], steps=20)) == -4.0
  assert curves.quality(run_of([5.0, 4.0], steps=30)) is None


def test_a_level_is_reached_between_two_points_by_a_straight_line():
  points = [(10, -5.0), (20, -4.0), (30, -4.2), (40, -3.0)]
  assert curves.reached(points, -4.5) == 15
  assert curves.reached(points, -3.6) == pytest.approx(35)
  assert curves.reached(points, -6.0) == 10
  assert curves.reached(points, -2.0) is None


def test_speed_ups_are_over_the_base_s_last_quality_each_run_at_its_own_pace():
  base = run_of([5.0, 4.5, 4.2, 4.0], rates=[200, 200, 5], steps=40)
  fast = run_of([4.5, 4.0, 3.9, 3.8], rates=[100, 1000, 100], steps=40)
  assert curves.speed_up_in_steps(fast, base) == 2.0
  assert curves.speed_up_in_time(fast, base) == 1.0  # medians: 100 and 200 tokens a second
  assert curves.speed_up_in_steps(base, base) == 1.0
  slow = run_of([5.0, 4.9, 4.8, 4.7], steps=40)
  assert curves.speed_up_in_steps(slow, base) is None
  assert curves.speed_up_in_time(slow, base) is None


def test_late_values_leave_out_the_beginning_and_a_mean_curve_has_the_common_finite_steps():
  run = run_of([])._replace(metrics={"load": [(25, 9.0), (75, 5.0), (80, 2.0), (100, 4.0)]})
  assert curves.late(run, "load") == 3.0
  assert curves.late(run, "none") is None
  assert curves.greatest(run, "load") == 9.0
  one, other = [(1, 2.0), (2, 4.0), (3, 8.0)], [(1, 4.0), (2, float("nan")), (3, 10.0), (4, 1.0)]
  assert curves.mean_curve([one, other]) == [(1, 3.0), (3, 9.0)]
  assert curves.mean_curve([]) == []
