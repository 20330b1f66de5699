# SPDX-License-Identifier: Apache-2.0
"""Labels and numbers, against scikit-learn, SciPy and cases by hand."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from switch_t5.scores import labels

INVALID = labels.INVALID


def _random(seed, high):
  generator = np.random.default_rng(seed)
  return generator.integers(0, high, 50).tolist(), generator.integers(INVALID, high, 50).tolist()


def test_a_text_is_a_label_only_if_it_is_written_so():
  names = ("False", "True")
  texts = ("True", "False", "true", " True", "True.", "", "True False", "<unk>")
  assert [labels.label_number(text, labels=names) for text in texts] == [1, 0, *[INVALID] * 6]


def test_a_text_is_a_number_if_it_is_a_finite_one():
  texts = ("3.4", "-2", "1e3", "3,4", "three", "", "nan", "inf", "-1e999")
  assert [labels.string_to_float(text) for text in texts] == [3.4, -2, 1000, *[-1.0] * 6]


def test_invalid_answers_are_counted():
  assert labels.count_invalid([0, 1, INVALID, 2, INVALID]) == 2
  assert labels.count_invalid([{"value": INVALID}, {"value": 1}]) == 1
  assert labels.count_invalid([-1.0, 3.4]) == 1
  assert labels.count_invalid(["text", {"value": "text"}]) == 0


@pytest.mark.parametrize("seed", range(4))
def test_accuracy_and_mean_f1_are_scikit_learns(seed):
  targets, predictions = _random(seed, 3)
  assert labels.accuracy(targets, predictions)["accuracy"] == pytest.approx(
    100 * sklearn.metrics.accuracy_score(targets, predictions)
  )
  expected = sklearn.metrics.f1_score(targets, predictions, labels=range(3), average="macro")
  assert labels.mean_multiclass_f1(num_classes=3)(targets, predictions) == {
    "mean_3class_f1": pytest.approx(100 * expected)
  }


@pytest.mark.parametrize("seed", range(4))
def test_f1_takes_an_invalid_answer_as_the_wrong_label(seed):
  targets, predictions = _random(seed, 2)
  valid = [
    1 - target if guess == INVALID else guess
    for target, guess in zip(targets, predictions, strict=True)
  ]
  assert labels.f1_with_invalid(targets, predictions) == {
    "f1": pytest.approx(100 * sklearn.metrics.f1_score(targets, valid))
  }


@pytest.mark.parametrize(
  ("targets", "predictions", "f1"),
  [
    ([0, 0], [0, 0], 0),  # no positive
    ([1, 1], [1, 1], 100),
    ([1, 1], [INVALID, INVALID], 0),
    ([0, 0], [INVALID, INVALID], 0),
    ([1, 1, 0], [1, INVALID, INVALID], 50),  # as [1, 0, 1]
    ([1, 0], [7, 7], 0),
  ],
)
def test_f1_of_edge_cases(targets, predictions, f1):
  assert labels.f1_with_invalid(targets, predictions) == {"f1": pytest.approx(f1)}


def test_a_label_that_nobody_has_lowers_the_mean_f1():
  metric = labels.mean_multiclass_f1(num_classes=3)
  assert metric([0, 1], [0, 1]) == {"mean_3class_f1": pytest.approx(200 / 3)}
  assert metric([0, 1], [INVALID, INVALID]) == {"mean_3class_f1": 0}


@pytest.mark.parametrize("seed", range(3))
def test_correlations_are_those_of_the_libraries(seed):
  targets, predictions = _random(seed, 2)
  assert labels.matthews(targets, predictions) == {
    "matthews_corrcoef": pytest.approx(
      100 * sklearn.metrics.matthews_corrcoef(targets, predictions)
    )
  }
  numbers = np.random.default_rng(seed).normal(size=(2, 30))
  assert labels.pearson(*numbers) == {
    "pearson_corrcoef": pytest.approx(100 * np.corrcoef(numbers)[0, 1])
  }
  assert labels.spearman(*numbers) == {
    "spearman_corrcoef": pytest.approx(100 * scipy.stats.spearmanr(*numbers)[0])
  }


@pytest.mark.parametrize("metric", [labels.pearson, labels.spearman])
@pytest.mark.parametrize(
  ("targets", "predictions"),
  [
    ([1.0, 2.0, 3.0], [-1.0, -1.0, -1.0]),
    ([1.0], [1.0]),
    ([1.0, 2.0], [1e308, -1e308]),
  ],
)
def test_a_correlation_that_is_not_defined_is_a_score(metric, targets, predictions):
  (score,) = metric(targets, predictions).values()
  assert np.isfinite(score)


def test_one_label_alone_has_no_matthews_correlation():
  assert labels.matthews([0, 1, 0], [1, 1, 1]) == {"matthews_corrcoef": 0}
  assert labels.matthews([0, 1, 0], [INVALID] * 3) == {"matthews_corrcoef": 0}


def test_a_prediction_for_each_target_is_needed():
  for metric in (labels.accuracy, labels.f1_with_invalid, labels.pearson):
    with pytest.raises(ValueError):
      metric([1, 0], [1])
