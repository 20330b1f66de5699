# SPDX-License-Identifier: Apache-2.0
"""Elements of HTML and SVG, in which every text is escaped."""

from __future__ import annotations

import html

_EMPTY = {"image", "line", "meta", "polyline", "rect"}  # elements that hold nothing


class Markup(str):
  """Text that is markup already. Any other string is text, and is escaped where it enters a page."""


def element(tag: str, *children: object, **attributes: object) -> Markup:
  """Returns an element.

  Args:
    tag: its name.
    *children: markup, or values whose text is escaped.
    **attributes: names with `_` for `-`, and one behind what Python reserves (`class_`). None leaves
      one out.
  """
  written = "".join(
    f' {name.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
    for name, value in attributes.items()
    if value is not None
  )
  if tag in _EMPTY:
    return Markup(f"<{tag}{written}/>")
  return Markup(f"<{tag}{written}>{joined(*children)}</{tag}>")


def joined(*children: object) -> Markup:
  """Returns them one after the other, what is no markup escaped."""
  return Markup(
    "".join(child if isinstance(child, Markup) else html.escape(str(child)) for child in children)
  )
