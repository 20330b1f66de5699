# SPDX-License-Identifier: Apache-2.0
"""Pages as browsers and screen readers meet them."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from switch_t5.reports import page
from switch_t5.reports.page import Column

EMPTY = {"meta", "rect", "line"}


class Balanced(HTMLParser):
  """Collects elements, and fails where one is closed that is not open."""

  def __init__(self, text: str):
    super().__init__()
    self.open: list[str] = []
    self.elements: list[tuple[str, dict]] = []
    self.feed(text)
    assert self.open == []

  def handle_starttag(self, tag, attributes):
    self.elements.append((tag, dict(attributes)))
    if tag not in EMPTY:
      self.open.append(tag)

  def handle_startendtag(self, tag, attributes):
    self.elements.append((tag, dict(attributes)))

  def handle_endtag(self, tag):
    assert self.open.pop() == tag


COLUMNS = [Column("name"), Column("bytes", is_number=True)]


def test_a_page_says_its_language_its_title_and_that_it_fits_a_telephone():
  read = Balanced(page.document("A <plan>", page.paragraph("x")))
  assert ("html", {"lang": "en"}) in read.elements
  assert any(attributes.get("name") == "viewport" for _, attributes in read.elements)
  assert [tag for tag, _ in read.elements].count("h1") == 1


def test_a_page_loads_nothing():
  text = page.document("A", page.table("t", COLUMNS, [("a", 1)]))
  assert not re.search(r"<script|<link|<img|\bsrc=|\bhref=|url\(|@import", text)


def test_a_page_has_colours_for_light_dark_and_paper():
  text = page.document("A")
  assert "prefers-color-scheme: dark" in text
  assert "@media print" in text


def test_a_table_scrolls_in_a_box_that_keys_reach_and_has_a_name():
  read = Balanced(page.table("What it holds", COLUMNS, [("a", 1), ("b", 2)], marked=[1]))
  assert read.elements[0] == (
    "div",
    {"class": "scroll", "role": "region", "aria-label": "What it holds", "tabindex": "0"},
  )
  headings = [attributes["scope"] for tag, attributes in read.elements if tag == "th"]
  assert headings == ["col", "col", "row", "row"]
  rows = [attributes for tag, attributes in read.elements if tag == "tr"]
  assert rows == [{}, {}, {"class": "marked"}]


def test_a_row_has_as_many_cells_as_there_are_columns():
  with pytest.raises(ValueError, match="zip"):
    page.table("t", COLUMNS, [("a", 1, 2)])


def test_text_everywhere_is_escaped():
  hostile = "<i>&"
  text = page.document(
    hostile,
    page.section(hostile, page.bullets([hostile]), page.facts({hostile: hostile})),
    page.table(hostile, [Column(hostile)], [(hostile,)]),
    page.figure(page.paragraph(hostile), hostile),
  )
  Balanced(text)
  assert hostile not in text
