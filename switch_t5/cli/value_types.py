# SPDX-License-Identifier: Apache-2.0
"""Values of a configuration against the annotations of the parameters that they are bound to."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Callable
from typing import Any

_NAMES = {
  bool: "True or False",
  int: "a whole number",
  float: "a number",
  str: "a text in quotes",
  list: "a list",
  tuple: "a tuple",
  dict: "a dictionary",
  types.NoneType: "None",
}


def broken_rule(target: Callable[..., Any], parameter: str, value: Any) -> str | None:
  """Returns what a parameter takes, in words, if `value` is of another type; else None.

  Only annotations made of Python's literals are held against the value, their elements are not.
  """
  annotation = _annotations(target).get(parameter)
  allowed = [typing.get_origin(member) or member for member in _members(annotation)]
  if any(kind not in _NAMES for kind in allowed) or any(_is(value, kind) for kind in allowed):
    return None
  return " or ".join(_NAMES[kind] for kind in allowed)


# Python evaluates each annotation anew whenever it is asked.
_annotations = functools.cache(typing.get_type_hints)


def _members(annotation: Any) -> tuple[Any, ...]:
  if typing.get_origin(annotation) in (types.UnionType, typing.Union):
    return typing.get_args(annotation)
  return (annotation,)


def _is(value: Any, kind: type) -> bool:
  if isinstance(value, bool):
    return kind is bool
  if kind is float:
    return isinstance(value, int | float)
  if kind in (list, tuple):
    return isinstance(value, list | tuple)
  return isinstance(value, kind)
