# SPDX-License-Identifier: Apache-2.0
"""A page: one HTML file that needs no network and no scripts. What is text is escaped (`markup`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from switch_t5.reports import svg
from switch_t5.reports.markup import Markup, element, joined

_STYLE = """\
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59616b; --ground: #fff; --line: #d5d9de;
  --good: #1a6b34; --bad: #b3261e; --marked: #fff2d6; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7eb; --soft: #a3abb5; --ground: #15181c; --line: #3a4048; --good: #7ccf94;
    --bad: #ff9b92; --marked: #453517; }
}
body { max-width: 68rem; margin: 0 auto; padding: 1rem; color: var(--ink); background: var(--ground);
  font: 16px/1.5 system-ui, sans-serif; }
h1, h2, h3 { line-height: 1.25; margin: 2rem 0 .5rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin-top: .5rem; } h2 { font-size: 1.25rem; } h3 { font-size: 1.05rem; }
article { border-top: 2px solid var(--line); margin-top: 2.5rem; }
p, li { max-width: 46rem; overflow-wrap: anywhere; }
.verdict { font-size: 1.2rem; font-weight: 600; border-left: .4rem solid; padding-left: .7rem; }
.good { color: var(--good); } .bad { color: var(--bad); } .note { color: var(--soft); }
dl { display: grid; grid-template-columns: minmax(8rem, max-content) 1fr; gap: .15rem 1rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
figure { margin: 1rem 0; } figcaption { color: var(--soft); font-size: .9rem; }
.scroll { overflow-x: auto; margin: 1rem 0; } .scroll:focus-visible { outline: 2px solid; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: .3rem; white-space: normal; }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; white-space: nowrap; }
th[scope=row] { white-space: normal; min-width: 10rem; } th[scope=row].number { min-width: 0; }
td.number, th.number { text-align: right; } td.prose { white-space: normal; min-width: 11rem; }
tr.marked td, tr.marked th { background: var(--marked); print-color-adjust: exact; }
code, pre { font-size: .95em; } pre { overflow-x: auto; }
details { margin: .5rem 0; } summary { cursor: pointer; }
@media print {
  body { max-width: none; padding: 0; color: #000; background: #fff; }
  section { break-inside: avoid-page; } .scroll { overflow: visible; } table { font-size: .75rem; }
  th, td { white-space: normal; }
}
"""


class Column(NamedTuple):
  """Of a table: its heading, whether it holds numbers, and whether it holds sentences."""

  heading: str
  is_number: bool = False
  is_prose: bool = False


def document(title: str, *parts: Markup, refresh: int | None = None) -> str:
  """Returns the page, whose first heading is its title.

  Args:
    title: of the page.
    *parts: below it.
    refresh: seconds after which a browser reads the page again; None: it does not.
  """
  again = [element("meta", http_equiv="refresh", content=refresh)] if refresh else []
  head = element(
    "head",
    element("meta", charset="utf-8"),
    element("meta", name="viewport", content="width=device-width, initial-scale=1"),
    *again,
    element("title", title),
    element("style", Markup(_STYLE + svg.STYLE)),
  )
  body = element("body", element("main", element("h1", title), *parts))
  return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def section(heading: str, *parts: Markup, level: int = 2) -> Markup:
  """Returns a part of the page under a heading of level 2 or 3."""
  return element("section", element(f"h{level}", heading), *parts)


def paragraph(*text: object, look: str | None = None) -> Markup:
  """Returns a paragraph; `look` is "verdict good", "verdict bad" or "note"."""
  return element("p", *text, class_=look)


def bullets(sentences: Sequence[object]) -> Markup:
  """Returns a list."""
  return element("ul", *(element("li", sentence) for sentence in sentences))


def facts(named: Mapping[str, object]) -> Markup:
  """Returns names and what they are, side by side."""
  pairs = (joined(element("dt", name), element("dd", value)) for name, value in named.items())
  return element("dl", *pairs)


def folded(summary: str, content: Markup) -> Markup:
  """Returns what is shown when its summary is opened."""
  return element("details", element("summary", summary), content)


def figure(picture: Markup, caption: str) -> Markup:
  """Returns a picture and what is said under it."""
  return element("figure", picture, element("figcaption", caption))


def table(
  caption: str,
  columns: Sequence[Column],
  rows: Sequence[Sequence[object]],
  marked: Sequence[int] = (),
) -> Markup:
  """Returns a table that scrolls sideways in a box of its own where the page is narrow.

  Args:
    caption: what it holds; also the name of the box.
    columns: of which the first names the row.
    rows: cells, as many as there are columns.
    marked: indices of rows to look at.
  """
  looks = [
    "number" if column.is_number else "prose" if column.is_prose else None for column in columns
  ]
  headings = (
    element("th", column.heading, scope="col", class_=look)
    for column, look in zip(columns, looks, strict=True)
  )
  body = []
  for index, row in enumerate(rows):
    first = element("th", row[0], scope="row", class_=looks[0])
    rest = (element("td", cell, class_=look) for cell, look in zip(row[1:], looks[1:], strict=True))
    body.append(element("tr", first, *rest, class_="marked" if index in marked else None))
  content = element(
    "table",
    element("caption", caption),
    element("thead", element("tr", *headings)),
    element("tbody", *body),
  )
  return element("div", content, class_="scroll", role="region", aria_label=caption, tabindex=0)
