# SPDX-License-Identifier: Apache-2.0
"""The best checkpoint so far: found again after a kill, by the metric that is asked for."""

from __future__ import annotations

import math

import pytest

from switch_t5.checkpoint.best import BEST, Best, find_best, is_better, read_best, write_best

METRIC = "eval/task/accuracy"
ROWS = [
  {"step": 5, METRIC: 50.0, "eval/task/cross_entropy": 2.0},
  {"step": 10, METRIC: 70.0, "eval/task/cross_entropy": 1.0},
  {"step": 15, METRIC: 70.0, "eval/task/cross_entropy": 3.0},
  {"step": 20, METRIC: math.nan},
]


def find(*, metric=METRIC, written=None, steps=(5, 10, 15, 20), larger=True):
  best = find_best(metric, ROWS, written, steps, larger=larger)
  return best and (best.step, best.value)


def test_it_is_written_and_read_back(tmp_path):
  assert read_best(tmp_path) is None
  for best in (Best(5, METRIC, 50.0), Best(10, METRIC, 70.0)):
    write_best(tmp_path, best)
    assert read_best(tmp_path) == best
  assert [path.name for path in tmp_path.iterdir()] == [BEST]


@pytest.mark.parametrize(
  "text", ["", "{", "[]", '{"step": 5}', '{"step": null, "metric": "m", "value": 1}']
)
def test_a_file_that_cannot_be_read_is_none(tmp_path, text):
  (tmp_path / BEST).write_text(text)
  assert read_best(tmp_path) is None


def test_the_first_of_the_best_values_counts_and_a_number_that_is_none_never_does():
  assert find() == (10, 70.0)
  assert find(metric="eval/task/cross_entropy", larger=False) == (10, 1.0)
  assert find(metric="eval/other/accuracy") is None
  assert not is_better(math.nan, None, larger=True)


def test_only_checkpoints_that_exist_count():
  assert find(steps=(5, 20)) == (5, 50.0)
  assert find(written=Best(30, METRIC, 99.0)) == (10, 70.0)


def test_what_was_written_counts_if_it_is_of_this_metric():
  assert find(written=Best(5, METRIC, 80.0)) == (5, 80.0)
  assert find(written=Best(5, "eval/other/accuracy", 80.0)) == (10, 70.0)
