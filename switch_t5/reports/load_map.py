# SPDX-License-Identifier: Apache-2.0
"""A heat map of the load of each expert over time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from switch_t5.reports import png, svg
from switch_t5.reports.axes import plain
from switch_t5.reports.markup import Markup
from switch_t5.reports.run_content import Loads
from switch_t5.reports.svg import Mark

_COLUMNS = 240
_ROWS = 256
_LEVELS = 33  # from a quarter of the mean to four times it, in equal ratios
_IDLE, _EVEN, _BUSY = (33, 102, 172), (236, 236, 236), (178, 24, 43)
_DEAD = (0, 0, 0)


def draw(router: str, loads: Loads) -> Markup:
  """Returns the picture: a row for each expert, time from left to right, even load light.

  Args:
    router: its name.
    loads: at least one step.
  """
  relative = _cells(loads)
  experts = len(loads.relative[0])
  height = int(np.clip(8 * relative.shape[0], 64, 320))
  final: np.ndarray = np.asarray(loads.relative[-1], np.float64)
  busiest, idlest = int(np.argmax(final)), int(np.argmin(final))
  description = (
    f"At step {loads.steps[-1]:,} expert {busiest} has {final[busiest]:.2f} times the mean load, "
    f"expert {idlest} {final[idlest]:.2f}; {int((final == 0).sum())} of {experts} got nothing."
  )
  colour = "rgb({}, {}, {})".format
  legend = [
    (colour(*_DEAD), "nothing"),
    (colour(*_IDLE), "1/4 or less"),
    (colour(*_EVEN), "the mean"),
    (colour(*_BUSY), "4 times or more"),
  ]
  return svg.cells(
    f"Load of the experts of {router} over the steps",
    description,
    image(loads),
    height,
    x_ticks=_step_marks(loads.steps),
    y_ticks=[
      Mark(0.5 / relative.shape[0], "0"),
      Mark(1 - 0.5 / relative.shape[0], str(experts - 1)),
    ],
    legend=legend,
  )


def image(loads: Loads) -> bytes:
  """Returns the cells alone, a PNG of a pixel for each."""
  return png.of_cells(_levels(_cells(loads)), _palette())


def _cells(loads: Loads) -> np.ndarray:
  """Returns [E, steps], or as many of each as are drawn."""
  relative: np.ndarray = np.asarray(loads.relative, np.float64).T
  return _pooled(_pooled(relative, _COLUMNS, axis=1), _ROWS, axis=0)


def _step_marks(steps: Sequence[int]) -> list[Mark]:
  """Columns are one after the other, whatever the steps between them."""
  places = sorted({0, len(steps) // 2, len(steps) - 1})
  return [Mark((place + 0.5) / len(steps), plain(steps[place])) for place in places]


def _pooled(values: np.ndarray, most: int, axis: int) -> np.ndarray:
  """Returns at most `most` along an axis: of neighbours the one that is furthest from the mean load."""
  if values.shape[axis] <= most:
    return values
  parts = np.array_split(values, most, axis=axis)
  return np.stack([_furthest(part, axis) for part in parts], axis=axis)


def _furthest(values: np.ndarray, axis: int) -> np.ndarray:
  place = np.abs(_ratio(values)).argmax(axis=axis)
  return np.take_along_axis(values, np.expand_dims(place, axis), axis=axis).squeeze(axis)


def _ratio(relative: np.ndarray) -> np.ndarray:
  """Returns the binary logarithm, from -2.5 (nothing) to 2."""
  return np.where(relative > 0, np.clip(np.log2(np.maximum(relative, 1e-9)), -2, 2), -2.5)


def _levels(relative: np.ndarray) -> np.ndarray:
  """Returns places in the palette: 0 for nothing, then from idle to busy."""
  level = 1 + np.round((_ratio(relative) + 2) / 4 * (_LEVELS - 1))
  return np.where(relative > 0, level, 0).astype(np.uint8)


def _palette() -> list[tuple[int, int, int]]:
  half = _LEVELS // 2
  idle = [_mixed(_IDLE, _EVEN, i / half) for i in range(half)]
  busy = [_mixed(_EVEN, _BUSY, i / half) for i in range(half + 1)]
  return [_DEAD, *idle, *busy]


def _mixed(
  one: tuple[int, int, int], other: tuple[int, int, int], part: float
) -> tuple[int, int, int]:
  red, green, blue = (round(a + (b - a) * part) for a, b in zip(one, other, strict=True))
  return red, green, blue
