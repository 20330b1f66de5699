# SPDX-License-Identifier: Apache-2.0
"""Pictures as SVG: bars, and lines over an axis.

Widths are parts of what there is and text keeps its size, so a picture is readable on a telephone too.
Colours follow the reader's choice of light or dark, and nothing is said by colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from switch_t5.reports.markup import Markup, element, joined

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a8f98")
_DASHES = ("none", "7 4", "2 3", "9 3 2 3", "1 5", "12 4", "4 2")
STYLE = (
  """\
.picture { --ink: #1b1f24; --faint: #c4c9d0; --ground: #eef0f3; font: 14px system-ui, sans-serif; }
@media (prefers-color-scheme: dark) {
  .picture { --ink: #e4e7eb; --faint: #4a515b; --ground: #262b32; }
}
@media print { .picture { --ink: #000; --faint: #999; --ground: #eee; print-color-adjust: exact; } }
.picture text { fill: var(--ink); }
.picture .end { text-anchor: end; }
.picture .middle { text-anchor: middle; }
.picture .ground { fill: var(--ground); }
.picture .grid { stroke: var(--faint); stroke-width: 1; }
.picture .mark { stroke: var(--ink); stroke-width: 2; }
.picture .curve { stroke-width: 2.5; }
"""
  + "".join(
    f".picture .c{i} {{ fill: {colour}; stroke: {colour}; }}\n" for i, colour in enumerate(COLOURS)
  )
  + ".picture rect { stroke: none; }\n"
)
_ROW, _BAR = 42, 14  # pixels: of a row with its label, and of the bar in it
_HEIGHT, _LEFT, _RIGHT = 260, 12.0, 97.0  # of a plot: pixels, and per cent of the width


class Segment(NamedTuple):
  """A piece of a bar, in the unit of its picture; `colour` is a place in `COLOURS`."""

  start: float
  length: float
  colour: int


class Row(NamedTuple):
  """A bar with what is written over its left and its right end."""

  label: str
  value: str
  segments: Sequence[Segment]


class Mark(NamedTuple):
  """A place on an axis, and what is written there."""

  at: float
  label: str


class Line(NamedTuple):
  """A line through points (x, y)."""

  label: str
  points: Sequence[tuple[float, float]]


def bars(
  title: str, description: str, rows: Sequence[Row], full: float, mark: Mark | None = None
) -> Markup:
  """Returns a picture of bars, one under the other.

  Args:
    title: what it shows.
    description: what can be seen, for those who cannot see it.
    rows: the first at the top.
    full: the value of the whole width, positive.
    mark: a line across all bars.
  """
  top = 22 if mark else 0
  drawn = []
  for index, row in enumerate(rows):
    y = top + index * _ROW
    drawn.append(element("text", row.label, x=0, y=y + 16))
    drawn.append(element("text", row.value, x="100%", y=y + 16, class_="end"))
    drawn.append(element("rect", x=0, y=y + 22, width="100%", height=_BAR, class_="ground"))
    drawn += [
      element(
        "rect",
        x=_part(segment.start / full),
        y=y + 22,
        width=_part(segment.length / full),
        height=_BAR,
        class_=f"c{segment.colour}",
      )
      for segment in row.segments
    ]
  height = top + len(rows) * _ROW
  if mark:
    at = _part(mark.at / full)
    side = "end" if mark.at > full / 2 else None
    drawn.append(element("text", mark.label, x=at, y=14, class_=side))
    drawn += [
      element("line", x1=at, x2=at, y1=y + 20, y2=y + 24 + _BAR, class_="mark")
      for y in range(top, height, _ROW)
    ]
  return _picture(title, description, height, drawn)


def lines(
  title: str,
  description: str,
  series: Sequence[Line],
  x_ticks: Sequence[Mark],
  y_ticks: Sequence[Mark],
) -> Markup:
  """Returns a picture of lines; the axes go from their first tick to their last.

  Args:
    title: what it shows.
    description: what can be seen, for those who cannot see it.
    series: the lines, told apart by colour and by dashes.
    x_ticks: at least two, ascending.
    y_ticks: the same.
  """
  top = 24 * len(series) + 12

  def x(value: float) -> float:
    across = (value - x_ticks[0].at) / (x_ticks[-1].at - x_ticks[0].at)
    return _LEFT + (_RIGHT - _LEFT) * across

  def y(value: float) -> float:
    up = (value - y_ticks[0].at) / (y_ticks[-1].at - y_ticks[0].at)
    return round(top + _HEIGHT * (1 - up), 2)

  drawn = []
  for tick in y_ticks:
    ends = {"x1": f"{_LEFT}%", "x2": f"{_RIGHT}%"}
    drawn.append(element("line", **ends, y1=y(tick.at), y2=y(tick.at), class_="grid"))
    drawn.append(element("text", tick.label, x=f"{_LEFT - 1}%", y=y(tick.at) + 5, class_="end"))
  for tick in x_ticks:
    place = {"x": f"{x(tick.at):.2f}%", "y": top + _HEIGHT + 20}
    drawn.append(element("text", tick.label, **place, class_="middle"))
  for index, line in enumerate(series):
    look = {
      "class_": f"curve c{index % len(COLOURS)}",
      "stroke_dasharray": _DASHES[index % len(_DASHES)],
    }
    drawn.append(element("line", x1=0, x2=40, y1=24 * index + 12, y2=24 * index + 12, **look))
    drawn.append(element("text", line.label, x=50, y=24 * index + 17))
    drawn += [
      element(
        "line",
        **{"x1": f"{x(a[0]):.2f}%", "y1": y(a[1]), "x2": f"{x(b[0]):.2f}%", "y2": y(b[1])},
        **look,
      )
      for a, b in zip(line.points, line.points[1:], strict=False)
    ]
  return _picture(title, description, top + _HEIGHT + 28, drawn)


def as_file(picture: Markup, width: int = 760) -> str:
  """Returns a picture as a file of its own, `width` pixels wide."""
  name, _, rest = picture.partition(">")
  opening = name.replace('width="100%"', f'width="{width}"')
  return f"{opening}>{element('style', Markup(STYLE))}{rest}\n"


def _picture(title: str, description: str, height: float, drawn: Sequence[Markup]) -> Markup:
  return element(
    "svg",
    element("title", title),
    element("desc", description),
    joined(*drawn),
    xmlns="http://www.w3.org/2000/svg",
    class_="picture",
    role="img",
    aria_label=f"{title}. {description}",
    width="100%",
    height=height,
  )


def _part(fraction: float) -> str:
  return f"{100 * fraction:.2f}%"
