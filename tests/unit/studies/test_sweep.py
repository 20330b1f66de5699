# SPDX-License-Identifier: Apache-2.0
"""Which trials a sweep has, which go on, and its table."""

from __future__ import annotations

import pytest

from switch_t5.reports import study_page
from switch_t5.studies import sweep
from switch_t5.studies.curves import Run
from switch_t5.studies.family import Arm, Family
from switch_t5.studies.sweep import Range, Rung


def test_a_grid_has_every_combination_once():
  assert sweep.grid({"a": [1, 2], "b": ["x", "y"]}) == [
    {"a": 1, "b": "x"},
    {"a": 1, "b": "y"},
    {"a": 2, "b": "x"},
    {"a": 2, "b": "y"},
  ]


def test_random_trials_are_always_the_same_and_inside_their_ranges():
  varied = {"rate": Range(1e-3, 1.0), "width": Range(16, 64), "kind": ["x", "y"]}
  trials = sweep.drawn(varied, 200)
  assert trials == sweep.drawn(varied, 200)
  assert sweep.drawn(varied, 3) == trials[:3]
  assert all(1e-3 <= t["rate"] <= 1 and 16 <= t["width"] <= 64 for t in trials)
  assert all(type(t["width"]) is int for t in trials)
  below = sum(t["rate"] < 10**-1.5 for t in trials)  # the middle of the logarithms
  assert 70 < below < 130


@pytest.mark.parametrize(
  ("trials", "steps", "expected"),
  [
    (2, 100, [(2, 100)]),
    (3, 100, [(3, 100)]),
    (4, 100, [(4, 50), (2, 100)]),
    (9, 100, [(9, 25), (5, 50), (3, 100)]),
    (8, 1, [(8, 1)]),
  ],
)
def test_rungs_halve_the_trials_and_double_the_steps(trials, steps, expected):
  assert sweep.rungs(trials, steps) == [Rung(*pair) for pair in expected]


def run_of(arm, seed, qualities):
  points = [(5 * (i + 1), -found) for i, found in enumerate(qualities)]
  steps, diverged = 5 * len(points), None if points else "at step 2"
  return Run(arm, seed, steps or 5, "text", {"eval/text/cross_entropy": points}, {}, diverged)


def test_the_best_is_first_and_a_trial_is_compared_where_it_stopped():
  runs = {
    "t0": [run_of("t0", 0, [-5.0])],
    "t1": [run_of("t1", 0, [-4.5, -3.5])],
    "t2": [run_of("t2", 0, [-4.0, -3.0])],
    "t3": [run_of("t3", 0, [])],
  }
  assert sweep.ranked(runs) == ["t2", "t1", "t0", "t3"]
  family = Family("sweep", "Sweep", tuple(Arm(name, name, None) for name in runs), "t0")
  settings = {name: {"rate": 0.1 * i} for i, name in enumerate(runs)}
  found = sweep.outcome(family, "Sweep", runs, settings)
  rows = study_page.markdown(found.content).splitlines()[2:6]
  assert rows[0] == "| t2 | 0.2 | 10 | -3.0000 |  |"
  assert rows[1] == "| t1 | 0.1 | 10 | -3.5000 | -0.5000, one seed |"
  assert rows[2] == "| t0 | 0.0 | 5 | -5.0000 | -1.0000, one seed |"
  assert "diverged" in rows[3]
  assert found.json["best"] == "t2"
