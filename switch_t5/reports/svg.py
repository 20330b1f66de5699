# SPDX-License-Identifier: Apache-2.0
"""Pictures as SVG: bars, lines over an axis, and coloured cells.

Widths are parts of what there is and text keeps its size, so a picture is readable on a telephone too.
Colours follow the reader's choice of light or dark, and nothing is said by colour alone.
"""

from __future__ import annotations

import base64
import itertools
import math
from collections.abc import Iterator, Sequence
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
"""
  + "".join(
    f".picture .c{i} {{ fill: {colour}; stroke: {colour}; }}\n" for i, colour in enumerate(COLOURS)
  )
  + """\
.picture rect { stroke: none; }
.picture .curve { fill: none; stroke-width: 2.5; stroke-linecap: round; vector-effect: non-scaling-stroke; }
.picture image { image-rendering: pixelated; }
"""
)
_ROW, _BAR = 42, 14  # pixels: of a row with its label, and of the bar in it
_HEIGHT, _LEFT, _RIGHT = 260, 12.0, 97.0  # of a plot: pixels, and per cent of the width
_ACROSS = 1000  # units of the plot's own width


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

  def across(value: float) -> float:
    return (value - x_ticks[0].at) / (x_ticks[-1].at - x_ticks[0].at)

  def down(value: float) -> float:
    return _HEIGHT * (y_ticks[-1].at - value) / (y_ticks[-1].at - y_ticks[0].at)

  def path(points: Sequence[tuple[float, float]]) -> str:
    places = [f"{_ACROSS * across(x):.1f},{down(y):.1f}" for x, y in points]
    return " ".join(places * 2 if len(places) == 1 else places)  # a single one is a dot

  drawn, curves = [], []
  for tick in y_ticks:
    ends = {"x1": f"{_LEFT}%", "x2": f"{_RIGHT}%"}
    y = round(top + down(tick.at), 2)
    drawn.append(element("line", **ends, y1=y, y2=y, class_="grid"))
    drawn.append(element("text", tick.label, x=f"{_LEFT - 1}%", y=y + 5, class_="end"))
  for tick in x_ticks:
    x = _LEFT + (_RIGHT - _LEFT) * across(tick.at)
    place = {"x": f"{x:.2f}%", "y": top + _HEIGHT + 20}
    drawn.append(element("text", tick.label, **place, class_="middle"))
  for index, line in enumerate(series):
    look = {
      "class_": f"curve c{index % len(COLOURS)}",
      "stroke_dasharray": _DASHES[index % len(_DASHES)],
    }
    drawn.append(element("line", x1=0, x2=40, y1=24 * index + 12, y2=24 * index + 12, **look))
    drawn.append(element("text", line.label, x=50, y=24 * index + 17))
    curves += [element("polyline", points=points, **look) for points in map(path, _finite(line))]
  plot = element(
    "svg",
    joined(*curves),
    **{"x": f"{_LEFT}%", "y": top, "width": f"{_RIGHT - _LEFT}%", "height": _HEIGHT},
    viewBox=f"0 0 {_ACROSS} {_HEIGHT}",
    preserveAspectRatio="none",
    overflow="visible",
  )
  drawn.append(plot)
  return _picture(title, description, top + _HEIGHT + 28, drawn)


def cells(
  title: str,
  description: str,
  image: bytes,
  height: int,
  x_ticks: Sequence[Mark],
  y_ticks: Sequence[Mark],
  legend: Sequence[tuple[str, str]],
) -> Markup:
  """Returns a picture of coloured cells with a legend above.

  Args:
    title: what it shows.
    description: what can be seen, for those who cannot see it.
    image: a PNG of a pixel for each cell.
    height: of it in the picture, pixels.
    x_ticks: places from 0, left, to 1, right.
    y_ticks: places from 0, top, to 1, bottom.
    legend: colours, and what they mean.
  """
  top, share = 30, (_RIGHT - _LEFT) / max(len(legend), 1)
  drawn = []
  for index, (colour, label) in enumerate(legend):
    at = _LEFT + share * index
    drawn.append(element("rect", x=f"{at:.2f}%", y=2, width=14, height=14, fill=colour))
    text = element("text", label, x=20, y=14)
    drawn.append(element("svg", text, x=f"{at:.2f}%", overflow="visible"))
  data = f"data:image/png;base64,{base64.b64encode(image).decode()}"
  size = {"x": f"{_LEFT}%", "y": top, "width": f"{_RIGHT - _LEFT}%", "height": height}
  drawn.append(element("image", href=data, preserveAspectRatio="none", **size))
  for tick in y_ticks:
    y = round(top + height * tick.at + 5, 2)
    drawn.append(element("text", tick.label, x=f"{_LEFT - 1}%", y=y, class_="end"))
  for tick in x_ticks:
    x = f"{_LEFT + (_RIGHT - _LEFT) * tick.at:.2f}%"
    drawn.append(element("text", tick.label, x=x, y=top + height + 20, class_="middle"))
  return _picture(title, description, top + height + 28, drawn)


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


def _finite(line: Line) -> Iterator[list[tuple[float, float]]]:
  """Yields the pieces of a line between values that are not finite."""
  for finite, points in itertools.groupby(line.points, key=lambda p: all(map(math.isfinite, p))):
    if finite:
      yield list(points)


def _part(fraction: float) -> str:
  return f"{100 * fraction:.2f}%"
