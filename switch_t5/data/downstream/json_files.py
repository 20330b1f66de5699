# SPDX-License-Identifier: Apache-2.0
"""Published files that are one JSON document each."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from switch_t5.data.downstream.datasets import Example, Reader, malformed, parsed


def document(
  rows: Callable[[Any], Iterable[tuple[str, Mapping[str, Any]]]],
  parse: Callable[[Mapping[str, Any]], Iterable[Example]],
  unread: Collection[str] = (),
) -> Reader:
  """Returns the reader of such files.

  Args:
    rows: yields the objects of a document, each with its place in it.
    parse: yields the examples of an object, as for `datasets.jsonl`.
    unread: keys whose values are not kept, at any depth, where they are large.
  """

  def pruned(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in pairs if key not in unread}

  def read(path: Path) -> Iterator[tuple[str, Example]]:
    try:
      with path.open(encoding="utf-8") as file:
        whole = json.load(file, object_pairs_hook=pruned)
    except json.JSONDecodeError as error:
      raise malformed(f"{path}, line {error.lineno}", f"one JSON document ({error.msg})") from error
    except RecursionError as error:
      raise malformed(str(path), f"one JSON document ({error})") from error
    for place, row in parsed(rows, whole, str(path)):
      place = f"{path}, {place}"
      for example in parsed(parse, row, place):
        yield place, example

  return read
