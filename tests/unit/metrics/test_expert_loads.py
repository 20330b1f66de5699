# SPDX-License-Identifier: Apache-2.0
"""Loads of experts as characters, and the steps at which they are kept."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from switch_t5.metrics import expert_loads


def test_a_load_is_read_back_to_six_per_cent_and_nothing_stays_nothing():
  loads = np.array([0.0, 0.05, 0.25, 0.9, 1.0, 1.3, 4.0, 30.0])
  read = expert_loads.decode(expert_loads.encode(loads))
  assert read[0] == 0.0
  assert read[1:] == pytest.approx(loads[1:], rel=0.06)
  assert read[4] == 1.0


def test_a_load_beyond_the_scale_is_at_its_end():
  few, many = expert_loads.decode(expert_loads.encode(np.array([1e-6, 1e6])))
  assert 0 < few < 0.04
  assert many > 32


def test_another_character_is_refused():
  with pytest.raises(ValueError, match="substring"):
    expert_loads.decode("0?")


def test_a_long_run_keeps_few_lines_and_the_early_steps_closely():
  kept = [0]
  for step in range(100, 1_000_001, 100):
    if expert_loads.is_due(step, kept[-1]):
      kept.append(step)
  assert len(kept) < 700
  distances = [b - a for a, b in itertools.pairwise(kept)]
  assert distances[0] == 100
  assert max(distances) <= 10_000
