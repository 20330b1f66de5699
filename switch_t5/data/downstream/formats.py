# SPDX-License-Identifier: Apache-2.0
"""T5's text formats of GLUE and SuperGLUE, as steps of seqio's tasks.

A step takes a `tf.data.Dataset` of a data set's examples and returns one with the texts `inputs` and
`targets`. TensorFlow is imported when a step is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  import tensorflow as tf

UNKNOWN = "<unk>"  # T5's target where there is no label
_NOT_TEXT = ("idx", "label")


def labelled(
  dataset: tf.data.Dataset,
  benchmark: str,
  labels: Sequence[str],
  keys: Sequence[str] = (),
) -> tf.data.Dataset:
  """Makes `benchmark key: text key: text` of an example's texts, and the name of its label.

  Args:
    dataset: of examples with texts, `label` (-1: none) and `idx`.
    benchmark: first word of the inputs.
    labels: their names.
    keys: of the texts, in order; all of them, sorted, if not given.
  """
  import tensorflow as tf

  names = tf.constant([UNKNOWN, *labels])

  def format_(example: Mapping[str, Any]) -> dict[str, Any]:
    words = [benchmark]
    for key in keys or sorted(set(example) - set(_NOT_TEXT)):
      words += [f"{key}:", example[key]]
    return {
      "inputs": tf.strings.join(words, separator=" "),
      "targets": names[example["label"] + 1],
      "idx": example["idx"],
    }

  return dataset.map(format_)
