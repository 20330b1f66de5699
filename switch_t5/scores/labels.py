# SPDX-License-Identifier: Apache-2.0
"""Answers that are labels or numbers: how texts become them, and T5's metrics, times 100.

An answer that is no label is `INVALID`. No target is, so it counts as wrong; `count_invalid` counts
such answers.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from switch_t5.scores import extra

INVALID = -1


def label_number(
  text: str,
  example: Mapping[str, Any] | None = None,
  is_target: bool = False,
  *,
  labels: Sequence[str],
) -> int:
  """Returns the number of the label that a text is, or `INVALID`."""
  del example, is_target
  return labels.index(text) if text in labels else INVALID


def string_to_float(
  text: str, example: Mapping[str, Any] | None = None, is_target: bool = False
) -> float:
  """Returns the finite number that a text is, or `INVALID`."""
  del example, is_target
  try:
    number = float(text)
  except ValueError:
    return float(INVALID)
  return number if math.isfinite(number) else float(INVALID)


def count_invalid(predictions: Sequence[Any]) -> int:
  """Returns how many answers are no label: `INVALID`, or that as the `value` of a dict."""
  values = (p["value"] if isinstance(p, Mapping) else p for p in predictions)
  return sum(isinstance(value, int | float) and value == INVALID for value in values)


def accuracy(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
  """Returns `accuracy`, the share of predictions that equal their targets."""
  equal = [target == guess for target, guess in zip(targets, predictions, strict=True)]
  return {"accuracy": 100 * float(np.mean(equal))}


def f1_with_invalid(targets: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
  """Returns `f1` of label 1 of two; an answer that is neither counts as the wrong one of them."""
  true, guessed = _arrays(targets, predictions)
  guessed = np.where((guessed == 0) | (guessed == 1), guessed, 1 - true)
  return {"f1": 100 * _f1(true == 1, guessed == 1)}


def mean_multiclass_f1(num_classes: int) -> Callable[..., dict[str, float]]:
  """Returns the metric `mean_<n>class_f1`: the mean over the labels of each one's F1.

  A label that is neither a target nor an answer has an F1 of 0 and counts.
  """

  def metric(targets: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
    true, guessed = _arrays(targets, predictions)
    scores = [_f1(true == label, guessed == label) for label in range(num_classes)]
    return {f"mean_{num_classes}class_f1": 100 * float(np.mean(scores))}

  return metric


def matthews(targets: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
  """Returns `matthews_corrcoef`; answers that are no label are a class of their own.

  Raises:
    ConfigError: the extra `scores` is not installed.
  """
  with extra.needed("scikit-learn"):
    import sklearn.metrics

  return {"matthews_corrcoef": 100 * float(sklearn.metrics.matthews_corrcoef(targets, predictions))}


def pearson(targets: Sequence[float], predictions: Sequence[float]) -> dict[str, float]:
  """Returns `pearson_corrcoef`, 0 where it is not defined: all answers the same."""
  import scipy.stats

  return {"pearson_corrcoef": _correlation(scipy.stats.pearsonr, targets, predictions)}


def spearman(targets: Sequence[float], predictions: Sequence[float]) -> dict[str, float]:
  """Returns `spearman_corrcoef`, 0 where it is not defined: all answers the same."""
  import scipy.stats

  return {"spearman_corrcoef": _correlation(scipy.stats.spearmanr, targets, predictions)}


def _correlation(
  function: Callable[..., Any], targets: Sequence[float], predictions: Sequence[float]
) -> float:
  true, guessed = _arrays(targets, predictions)
  if len(set(true.tolist())) < 2 or len(set(guessed.tolist())) < 2:
    return 0.0
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of numbers too large or too close for the arithmetic
    coefficient = 100 * float(function(true, guessed)[0])
  return coefficient if math.isfinite(coefficient) else 0.0


def _arrays(targets: Sequence[Any], predictions: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
  if len(targets) != len(predictions) or not len(targets):
    raise ValueError("there is one prediction for each target, and one at least")
  return np.asarray(targets), np.asarray(predictions)


def _f1(true: np.ndarray, guessed: np.ndarray) -> float:
  """Returns the F1 of two bool arrays, 0 if neither has a positive."""
  positives = int(true.sum()) + int(guessed.sum())
  return 2 * int((true & guessed).sum()) / positives if positives else 0.0
