# SPDX-License-Identifier: Apache-2.0
"""Intervals of paired differences, against tables, definitions and simulation."""

from __future__ import annotations

import numpy as np
import pytest

from switch_t5.studies.paired import mean_interval, ratio_interval


def test_the_interval_of_a_mean_uses_student_s_table():
  values = [1.0, 2.0, 3.0]  # mean 2, standard error 1 / sqrt(3); t(2, 0.975) = 4.3027
  found = mean_interval(values)
  np.testing.assert_allclose(found, [2, 2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5], rtol=1e-4)
  assert not found.is_clear_of_zero


def test_both_ends_of_a_ratio_s_interval_leave_a_difference_that_just_touches_zero():
  rng = np.random.default_rng(0)
  gains = rng.normal(0.2, 0.02, 5)
  kept = 0.3 * gains + rng.normal(0, 0.01, 5)
  found = ratio_interval(kept, gains)
  assert found.estimate == pytest.approx(kept.mean() / gains.mean())
  assert found.low < found.estimate < found.high
  for end in (found.low, found.high):
    of_difference = mean_interval(kept - end * gains)
    assert min(abs(of_difference.low), abs(of_difference.high)) < 1e-12


def test_a_ratio_of_an_exact_denominator_is_the_interval_of_the_numerators():
  kept = [0.05, 0.07, 0.06]
  np.testing.assert_allclose(
    ratio_interval(kept, [0.2] * 3), np.divide(mean_interval(kept), 0.2), rtol=1e-9
  )


def test_there_is_no_share_of_a_gain_that_is_not_clear_of_zero():
  gains = [0.1, -0.05, 0.02]
  assert not mean_interval(gains).is_clear_of_zero
  assert ratio_interval([0.01, 0.02, 0.03], gains) is None


def test_the_interval_of_a_ratio_covers_the_truth_as_often_as_it_says():
  rng, truth, covered, trials = np.random.default_rng(1), 0.4, 0, 2000
  for _ in range(trials):
    gains = rng.normal(1.0, 0.15, 4)
    kept = truth * gains + rng.normal(0, 0.2, 4)
    found = ratio_interval(kept, gains)
    covered += found is not None and found.low <= truth <= found.high
  assert covered / trials == pytest.approx(0.95, abs=0.015)


def test_an_interval_needs_two_seeds():
  with pytest.raises(ValueError, match="two values"):
    mean_interval([1.0])
