# SPDX-License-Identifier: Apache-2.0
"""The time of a MODEL_DIR's whole life, from rows and starts that were written down by hand."""

from __future__ import annotations

import pytest

from switch_t5.metrics.goodput import KINDS, LOST, RESTART, describe, row, whole_life

BEGAN = 1_000_000.0  # of the first start, unix time


def line(start: int, step: int, began: float, done: bool = False, **seconds: float):
  """A line of metrics of a start that began at BEGAN + began and has spent `seconds`."""
  spent = dict.fromkeys(KINDS, 0.0) | seconds
  now = BEGAN + began + sum(spent.values())
  return {"step": step} | row(spent, start=start, unix_time=now, done=done)


def test_one_start_is_its_last_line():
  rows = [
    line(0, 10, 0.0, startup=5, compute=10),
    {"step": 10, "eval/x/accuracy": 0.5},  # has no account
    line(0, 20, 0.0, startup=5, compute=20, input=1, evaluation=4, done=True),
  ]
  life = whole_life(rows, [{"step": 0}])
  assert (life.total, life.starts, life.repeated_steps) == (30, 1, 0)
  assert life.goodput == pytest.approx(20 / 30)
  assert life.seconds[LOST] == life.seconds[RESTART] == 0


def test_a_restart_costs_the_time_between_and_the_steps_that_are_done_again():
  rows = [
    line(0, 10, 0.0, startup=2, compute=10),
    line(0, 20, 0.0, startup=2, compute=20),
    line(0, 30, 0.0, startup=2, compute=40),  # ends at 42: 2 s a step since step 20
    line(1, 30, 50.0, startup=3, compute=10),  # went on from 25
    line(1, 40, 50.0, startup=3, compute=20),
  ]
  life = whole_life(rows, [{"step": 0}, {"step": 25}])
  assert life.repeated_steps == 5
  assert life.seconds[LOST] == pytest.approx(10)
  assert life.seconds["compute"] == pytest.approx(40 + 20 - 10)
  assert life.seconds[RESTART] == pytest.approx(8)
  assert life.total == pytest.approx(73)  # from 0 to the last line


def test_what_several_starts_did_beyond_a_checkpoint_is_lost_once_each():
  rows = [
    line(0, 10, 0.0, compute=10),
    line(1, 10, 10.0, compute=5),  # went on from 5, to 10
    line(2, 12, 15.0, compute=8),  # went on from 4
  ]
  life = whole_life(rows, [{"step": 0}, {"step": 5}, {"step": 4}])
  assert life.repeated_steps == 6 + 5
  assert life.seconds[LOST] == pytest.approx(6 + 5)
  assert life.seconds["compute"] == pytest.approx(4 + 8)


def test_a_start_that_died_before_its_first_line_is_part_of_the_restart():
  rows = [line(0, 10, 0.0, compute=10), line(2, 20, 60.0, startup=5, compute=10)]
  life = whole_life(rows, [{"step": 0}, {"step": 10}, {"step": 10}])
  assert (life.seconds[RESTART], life.starts, life.repeated_steps) == (50, 3, 0)


def test_a_clock_that_went_back_takes_no_time_away():
  rows = [line(0, 10, 0.0, compute=10), line(1, 20, 5.0, compute=10)]
  assert whole_life(rows, [{"step": 0}, {"step": 10}]).seconds[RESTART] == 0


def test_the_rest_of_a_run_that_was_done_is_no_restart():
  rows = [line(0, 10, 0.0, compute=10, done=True), line(1, 20, 9999.0, compute=10)]
  life = whole_life(rows, [{"step": 0}, {"step": 10}])
  assert (life.seconds[RESTART], life.goodput) == (0, 1.0)


def test_a_folder_without_an_account_has_no_life():
  life = whole_life([{"step": 1, "train/loss": 2.0}], [{"step": 0}])
  assert (life.total, life.goodput) == (0, 0.0)


def test_the_line_names_the_largest_first_and_leaves_out_what_is_nothing():
  rows = [
    line(0, 10, 0.0, compute=3000, startup=60, input=120),
    line(1, 24, 3240.0, compute=6000, startup=60, logging=0.1),
  ]
  life = whole_life(rows, [{"step": 0}, {"step": 9}])
  assert describe(life) == (
    "Goodput 93.5% of 2 h 35 min: compute 2 h 25 min, lost 5 min, input 2 min, startup 2 min, "
    "restart 1 min; 1 restart, 1 step repeated"
  )
