# SPDX-License-Identifier: Apache-2.0
"""What a study found: the same tables and sentences as Markdown and as a page, there with curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from switch_t5.reports import axes, page, svg
from switch_t5.reports.axes import Point
from switch_t5.reports.markup import Markup, element, joined
from switch_t5.reports.page import Column
from switch_t5.reports.svg import Line

_LINES = len(svg.COLOURS)
_LONG = 24  # characters of a cell that may be broken into lines


class Table(NamedTuple):
  """A table of texts, the first column the names of the rows; `caption` says what it holds."""

  caption: str
  headings: Sequence[str]
  rows: Sequence[Sequence[str]]


class Chart(NamedTuple):
  """Curves over each other.

  Attributes:
    title: what they show.
    caption: what is measured, and over what.
    series: labels and points (x, y).
  """

  title: str
  caption: str
  series: Sequence[tuple[str, Sequence[Point]]]


class StudyContent(NamedTuple):
  """All that is shown of a study.

  Attributes:
    title: of the study, with its size.
    tables: the first is the paper's.
    sentences: what is to be known of the tables, and what they say.
    charts: of the page.
    settings: gin text of each arm, by title.
  """

  title: str
  tables: Sequence[Table]
  sentences: Sequence[str]
  charts: Sequence[Chart] = ()
  settings: Sequence[tuple[str, str]] = ()


def markdown(content: StudyContent) -> str:
  """Returns tables and sentences as Markdown, without the title."""
  parts = [_markdown_table(content.tables[0]), *content.sentences]
  for table in content.tables[1:]:
    parts += [f"{table.caption}:", _markdown_table(table)]
  return "\n\n".join(parts)


def render(content: StudyContent) -> str:
  """Returns the page."""
  first, *others = content.tables
  parts = [_table(first), joined(*(page.paragraph(text) for text in content.sentences))]
  parts += [page.section(table.caption, _table(table)) for table in others]
  drawn = [figure for chart in content.charts if (figure := _chart(chart)) is not None]
  if drawn:
    parts.append(page.section("Curves", *drawn))
  if content.settings:
    texts = [page.folded(title, element("pre", text)) for title, text in content.settings]
    parts.append(page.section("Settings", *texts))
  return page.document(content.title, *parts)


def _markdown_table(table: Table) -> str:
  heads = "".join(f" {heading} |" if heading else " |" for heading in table.headings)
  lines = [f"|{heads}", "|" + "---|" * len(table.headings)]
  lines += ["| " + " | ".join(row) + " |" for row in table.rows]
  return "\n".join(lines)


def _table(table: Table) -> Markup:
  longest = [max(map(len, cells)) for cells in zip(*table.rows, strict=True)]
  columns = [
    Column(heading, is_prose=index > 0 and longest[index] > _LONG)
    for index, heading in enumerate(table.headings)
  ]
  return page.table(table.caption, columns, table.rows)


def _chart(chart: Chart) -> Markup | None:
  lines = [Line(label, axes.thin(points)) for label, points in chart.series[:_LINES] if points]
  reach = axes.extent(lines)
  if reach is None:
    return None
  (first, low), (final, high) = reach
  ends = [f"{line.label} {axes.plain(round(line.points[-1][1], 4))} at the end" for line in lines]
  picture = svg.lines(
    chart.title,
    "; ".join(ends),
    lines,
    x_ticks=axes.marks(axes.ticks(first, final, 8), axes.plain),
    y_ticks=axes.marks(axes.ticks(low, high), axes.plain),
  )
  more = len(chart.series) - _LINES
  hidden = f" {more} more are not drawn." if more > 0 else ""
  return page.figure(picture, f"{chart.title}: {chart.caption}.{hidden}")
