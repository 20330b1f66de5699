# SPDX-License-Identifier: Apache-2.0
"""Pictures, read back as XML."""

from __future__ import annotations

from xml.etree import ElementTree

from switch_t5.reports import svg
from switch_t5.reports.svg import Line, Mark, Row, Segment

NAMESPACE = "{http://www.w3.org/2000/svg}"
BARS = [
  Row("all & more", "6 GB", [Segment(0, 4, 0), Segment(4, 2, 1)]),
  Row("second", "2 GB", [Segment(4, 2, 1)]),
]
TICKS = [Mark(0.0, "0"), Mark(10.0, "ten")]


def parts(picture: str, tag: str) -> list[ElementTree.Element]:
  return ElementTree.fromstring(picture).findall(f"{NAMESPACE}{tag}")


def test_a_picture_says_what_it_shows_to_those_who_cannot_see_it():
  for picture in (svg.bars("T", "D", BARS, full=8), svg.lines("T", "D", [], TICKS, TICKS)):
    root = ElementTree.fromstring(picture)
    assert root.get("role") == "img"
    assert root.get("aria-label") == "T. D"
    assert [root.findtext(f"{NAMESPACE}{tag}") for tag in ("title", "desc")] == ["T", "D"]


def test_bars_are_parts_of_the_whole_width():
  rects = parts(svg.bars("T", "D", BARS, full=8), "rect")
  drawn = [(rect.get("x"), rect.get("width")) for rect in rects if rect.get("class") != "ground"]
  assert drawn == [("0.00%", "50.00%"), ("50.00%", "25.00%"), ("50.00%", "25.00%")]


def test_labels_are_written_as_they_are():
  texts = [text.text for text in parts(svg.bars("T", "D", BARS, full=8), "text")]
  assert texts == ["all & more", "6 GB", "second", "2 GB"]


def test_a_mark_crosses_every_bar():
  marks = parts(svg.bars("T", "D", BARS, full=8, mark=Mark(6, "limit")), "line")
  assert [mark.get("x1") for mark in marks] == ["75.00%", "75.00%"]


def curves(picture: str) -> list[ElementTree.Element]:
  return ElementTree.fromstring(picture).findall(f"{NAMESPACE}svg/{NAMESPACE}polyline")


def test_lines_go_from_the_first_tick_to_the_last():
  drawn = svg.lines("T", "D", [Line("a", [(0, 0), (10, 10)])], TICKS, TICKS)
  (plot,) = parts(drawn, "svg")
  assert (plot.get("x"), plot.get("width")) == ("12.0%", "85.0%")
  _, _, width, height = map(int, plot.get("viewBox", "").split())
  assert curves(drawn)[0].get("points") == f"0.0,{height}.0 {width}.0,0.0"
  grid = [line for line in parts(drawn, "line") if line.get("class") == "grid"]
  low, high = (float(line.get("y1", "")) for line in grid)
  assert low - high == height


def test_a_line_is_broken_where_its_values_are_not_finite():
  points = [(0, 1), (1, 2), (2, float("nan")), (3, float("inf")), (4, 5)]
  found = curves(svg.lines("T", "D", [Line("a", points)], TICKS, TICKS))
  assert [len(curve.get("points", "").split()) for curve in found] == [
    2,
    2,
  ]  # a dot is drawn to itself


def test_lines_are_told_apart_without_colour():
  series = [Line(str(i), [(0, 0), (1, 1)]) for i in range(len(svg.COLOURS))]
  curves = [
    line
    for line in parts(svg.lines("T", "D", series, TICKS, TICKS), "line")
    if "curve" in line.get("class", "")
  ]
  assert len({line.get("stroke-dasharray") for line in curves}) == len(svg.COLOURS)


def test_a_file_has_its_own_style_and_width():
  root = ElementTree.fromstring(svg.as_file(svg.bars("T", "D", BARS, full=8), width=500))
  assert root.get("width") == "500"
  assert root[0].tag == f"{NAMESPACE}style"
  assert "prefers-color-scheme" in str(root[0].text)
