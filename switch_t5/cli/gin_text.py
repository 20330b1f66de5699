# SPDX-License-Identifier: Apache-2.0
"""Writes values as gin reads them."""

from __future__ import annotations

import math
from typing import Any

from switch_t5.cli.gin_walk import Macro, Reference

LINE_LENGTH = 100


def is_literal(value: Any) -> bool:
  """Returns whether gin can read the value back: None, bool, numbers, text, and containers of them."""
  if isinstance(value, dict):
    return all(is_literal(part) for item in value.items() for part in item)
  if type(value) in (list, tuple):
    return all(is_literal(element) for element in value)
  if type(value) is float:
    return not math.isnan(value)
  return value is None or type(value) in (bool, int, str, bytes)


def format_value(value: Any) -> str:
  """Returns the value on one line."""
  if isinstance(value, Macro | Reference):
    return str(value)
  if isinstance(value, dict):
    return "{" + ", ".join(f"{format_value(k)}: {format_value(v)}" for k, v in value.items()) + "}"
  if isinstance(value, list):
    return "[" + ", ".join(map(format_value, value)) + "]"
  if isinstance(value, tuple):
    inner = ", ".join(map(format_value, value))
    return f"({inner},)" if len(value) == 1 else f"({inner})"
  if isinstance(value, float) and math.isinf(value):
    return "1e999" if value > 0 else "-1e999"  # gin has no name for infinity
  return repr(value)


def format_assignment(name: str, value: Any) -> str:
  """Returns `name = value`, a container with an element per line where one line is too long."""
  line = f"{name} = {format_value(value)}"
  if len(line) <= LINE_LENGTH or not value or not isinstance(value, dict | list | tuple):
    return line
  if isinstance(value, dict):
    elements = [f"{format_value(k)}: {format_value(v)}" for k, v in value.items()]
  else:
    elements = [format_value(element) for element in value]
  opening, closing = {dict: ("{", "}"), list: ("[", "]"), tuple: ("(", ")")}[type(value)]
  return "\n".join([f"{name} = {opening}", *(f"    {e}," for e in elements), closing])
