# SPDX-License-Identifier: Apache-2.0
"""A data set's own files as a source of seqio.

A split is read whole, and its examples are held in memory: so a fault is an error when the split is
opened, and the position in it can be saved. This module loads TensorFlow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import seqio
import tensorflow as tf

from switch_t5.data.downstream import datasets


class LocalSource(seqio.DataSource):
  """The splits of a data set whose files are there."""

  def __init__(self, dataset: datasets.Dataset, folder: Path, splits: Mapping[str, str]):
    """Opens nothing yet.

    Args:
      dataset: which.
      folder: of its files.
      splits: those that are there, and what of the data set's each is made of.
    """
    super().__init__(list(splits))
    self._dataset, self._folder, self._made_of = dataset, folder, dict(splits)

  @property
  def supports_arbitrary_sharding(self) -> bool:
    """No: seqio takes every n-th example."""
    return False

  def list_shards(self, split: str) -> Sequence[str]:
    """Returns the paths of the split's files."""
    return list(map(str, self._dataset.paths(self._folder, self._made_of[split])))

  def sha256(self, split: str) -> str:
    """Returns a hash (hex) of the split's files."""
    whole = hashlib.sha256()
    for path in self.list_shards(split):
      with open(path, "rb") as file:
        whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()

  def get_dataset(
    self,
    split: str = "train",
    shuffle: bool = True,
    seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None,
    *,
    sequence_length: Mapping[str, int] | None = None,
    use_cached: bool = False,
    num_epochs: int | None = 1,
  ) -> tf.data.Dataset:
    """Returns the examples of a split, as TFDS gives them.

    Raises:
      DataError: the file cannot be read, is empty or malformed.
    """
    del shard_info, sequence_length, use_cached, num_epochs
    examples = self._dataset.examples(self._folder, self._made_of[split])
    columns = _columns(examples, self._dataset.features)
    numbers = tf.data.Dataset.range(len(examples))
    if shuffle:  # numbers, not examples: a saved position holds what is in the buffer
      numbers = numbers.shuffle(len(examples), seed)
    return numbers.map(lambda number: _take(columns, number))


def _columns(
  examples: Sequence[Mapping[str, Any]], features: Mapping[str, datasets.Feature]
) -> dict[str, Any]:
  """Returns each feature of all examples, [examples] or ragged [examples, ...]."""
  return {
    name: _column([example[name] for example in examples], feature)
    for name, feature in features.items()
  }


def _column(values: Sequence[Any], feature: datasets.Feature) -> Any:
  if isinstance(feature, Mapping):
    return _columns(values, feature)
  if isinstance(feature, tuple):
    return tf.constant(values, tf.int64)
  if feature.endswith("[]"):
    items = [item for value in values for item in value]  # tf.ragged.constant takes quadratic time
    flat = tf.constant(items, tf.as_dtype(feature.removesuffix("[]")))
    return tf.RaggedTensor.from_row_lengths(flat, [len(value) for value in values])
  return tf.constant(values, tf.as_dtype(feature))


def _take(columns: Mapping[str, Any], number: tf.Tensor) -> dict[str, Any]:
  return {
    name: _take(column, number) if isinstance(column, Mapping) else column[number]
    for name, column in columns.items()
  }
