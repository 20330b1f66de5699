# SPDX-License-Identifier: Apache-2.0
"""Axes of pictures: ticks at round numbers, and as many points as can be told apart."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from switch_t5.reports.svg import Line, Mark

_POINTS = 400  # of a line; a picture is 700 pixels wide
Point = tuple[float, float]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
  """Returns round numbers, at equal distances, that span from `low` to `high`.

  Args:
    low: finite.
    high: finite, not below `low`.
    count: about how many; never fewer than two.
  """
  span = high - low or abs(high) or 1.0
  raw = span / max(count - 1, 1)
  unit = 10.0 ** math.floor(math.log10(raw))
  step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw * 0.999)
  first = math.floor(low / step + 1e-9)
  last = max(math.ceil(high / step - 1e-9), first + 1)
  return [round(step * i, 12) for i in range(first, last + 1)]


def marks(values: Sequence[float], form: Callable[[float], str]) -> list[Mark]:
  """Returns ticks with what is written at them."""
  return [Mark(value, form(value)) for value in values]


def plain(value: float) -> str:
  """Returns a number of a tick, e.g. "20,000", "0.25", "1e-05"."""
  if value and (abs(value) < 1e-3 or abs(value) >= 1e7):
    return f"{value:.1e}".replace(".0e", "e")
  return f"{value:,.6g}"


def thin(points: Sequence[Point], count: int = _POINTS) -> list[Point]:
  """Returns at most about `count` of the points: of neighbours the lowest and the highest, so spikes stay.

  Args:
    points: (x, y) by ascending x.
    count: at least 2.
  """
  if len(points) <= count:
    return list(points)
  edges = np.linspace(points[0][0], points[-1][0], count // 2 + 1)
  cuts = np.searchsorted([x for x, _ in points], edges[1:-1]).tolist()
  kept: list[Point] = []
  for start, stop in itertools.pairwise([0, *cuts, len(points)]):
    part = points[start:stop]
    finite = [point for point in part if math.isfinite(point[1])] or part[:1]
    if finite:
      ends = {max(finite, key=lambda p: p[1]), min(finite, key=lambda p: p[1])}
      kept += sorted(ends)
  return [points[0], *kept, points[-1]]


def extent(lines: Sequence[Line]) -> tuple[Point, Point] | None:
  """Returns the least and the greatest finite (x, y) of all lines; None if there is none."""
  points = [p for line in lines for p in line.points if all(map(math.isfinite, p))]
  if not points:
    return None
  return (
    (min(p[0] for p in points), min(p[1] for p in points)),
    (max(p[0] for p in points), max(p[1] for p in points)),
  )
