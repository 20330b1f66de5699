# SPDX-License-Identifier: Apache-2.0
"""Elements of pages and pictures."""

from __future__ import annotations

from switch_t5.reports.markup import Markup, element, joined

HOSTILE = "<script>alert('a' & \"b\")</script>"


def test_text_and_attributes_are_escaped_and_markup_is_not():
  inner = element("b", HOSTILE)
  assert "<script>" not in inner
  assert element("p", inner, 3) == f"<p>{inner}3</p>"
  attribute = element("p", title='"><script>')
  assert attribute == '<p title="&quot;&gt;&lt;script&gt;"></p>'


def test_names_of_attributes_are_those_of_html():
  assert element("td", class_="number", aria_label="a", tabindex=0, title=None) == (
    '<td class="number" aria-label="a" tabindex="0"></td>'
  )


def test_what_holds_nothing_is_closed_at_once():
  assert element("rect", x=0) == '<rect x="0"/>'


def test_joined_is_markup_again():
  assert isinstance(joined("<", Markup("<b>")), Markup)
  assert joined("<", Markup("<b>")) == "&lt;<b>"
