# SPDX-License-Identifier: Apache-2.0
"""What paired differences over seeds say: the interval of their mean, and of a ratio of two means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

CONFIDENCE = 0.95


class Interval(NamedTuple):
  """An estimate and its confidence interval."""

  estimate: float
  low: float
  high: float

  @property
  def is_clear_of_zero(self) -> bool:
    """Whether 0 lies outside."""
    return self.low > 0 or self.high < 0


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
  """Returns the mean of independent normal values and its interval, by Student's t.

  Args:
    values: one for each seed, at least two.
    confidence: of the interval.
  """
  count = len(values)
  mean = float(np.mean(values))
  half = _quantile(count, confidence) * float(np.std(values, ddof=1)) / math.sqrt(count)
  return Interval(mean, mean - half, mean + half)


def ratio_interval(
  numerators: Sequence[float], denominators: Sequence[float], confidence: float = CONFIDENCE
) -> Interval | None:
  """Returns the ratio of two means and its interval (Fieller, 1954), for pairs of normal values.

  A ratio r is inside where the mean of `numerator - r * denominator` is not clear of 0. Where the mean
  denominator is not clear of 0 itself, these r have no bound.

  Args:
    numerators: one for each seed, at least two.
    denominators: of the same seeds; they may depend on the numerators.
    confidence: of the interval.

  Returns:
    The interval; None if the mean denominator is not clear of 0.
  """
  count = len(numerators)
  top, bottom = float(np.mean(numerators)), float(np.mean(denominators))
  # t^2 times the (co)variances of the means.
  scaled = _quantile(count, confidence) ** 2 / count * np.cov(numerators, denominators, ddof=1)
  a = bottom**2 - float(scaled[1, 1])
  b = top * bottom - float(scaled[0, 1])
  c = top**2 - float(scaled[0, 0])
  if a <= 0:
    return None
  root = math.sqrt(max(b**2 - a * c, 0.0))  # below 0 by rounding alone
  return Interval(top / bottom, (b - root) / a, (b + root) / a)


def half_width(error: float, free: int, confidence: float = CONFIDENCE) -> float:
  """Returns half of the interval of an estimate with a standard error, by Student's t.

  Args:
    error: standard error.
    free: degrees of freedom, at least one.
    confidence: of the interval.
  """
  return float(stdtrit(free, (1 + confidence) / 2)) * error


def _quantile(count: int, confidence: float) -> float:
  """Returns Student's t of `count` values, two-sided."""
  if count < 2:
    raise ValueError(f"an interval needs two values, not {count}")
  return float(stdtrit(count - 1, (1 + confidence) / 2))
