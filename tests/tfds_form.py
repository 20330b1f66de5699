# SPDX-License-Identifier: Apache-2.0
"""What a source of seqio gives, to compare files of our reading with what TFDS's builders make."""

from __future__ import annotations

from typing import Any


def contents(source: Any, split: str) -> tuple[list[str], list[str], list[str]]:
  """Returns the names and types of a split's features, and its examples in an order of their own."""
  import tensorflow as tf

  dataset = source.get_dataset(split, shuffle=False)
  types = [str(spec.dtype) for spec in tf.nest.flatten(dataset.element_spec)]
  examples = sorted(str(tf.nest.flatten(example)) for example in dataset.as_numpy_iterator())
  return sorted(dataset.element_spec), types, examples
