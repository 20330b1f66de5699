# SPDX-License-Identifier: Apache-2.0
"""SuperGLUE's data sets: their features, and their published JSON lines as TFDS reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from switch_t5.data.downstream.datasets import Dataset, Example, Feature, jsonl

_FILES = {"train": "train.jsonl", "validation": "val.jsonl", "test": "test.jsonl"}
FALSE_TRUE = ("False", "True")


def _texts(*names: str, labels: tuple[str, ...]) -> dict[str, Feature]:
  return {**dict.fromkeys(names, "string"), "idx": "int32", "label": labels}


def _as_published(row: Mapping[str, Any]) -> Iterator[Example]:
  """Yields the row; a label that is true or false has that name."""
  label = row.get("label")
  yield {**row, "label": str(label) if isinstance(label, bool) else label}


BOOLQ = Dataset(
  "super_glue/boolq:1.0.2",
  "BoolQ",
  _FILES,
  _texts("question", "passage", labels=FALSE_TRUE),
  jsonl(_as_published),
)
