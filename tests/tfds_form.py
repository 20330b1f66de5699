# SPDX-License-Identifier: Apache-2.0
"""Data sets that TFDS's own builders make of published files, and whether we read these alike."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterable
from typing import Any
from unittest import mock

from switch_t5.data.downstream import datasets


def contents(source: Any, split: str) -> tuple[list[str], list[str], list[str]]:
  """Returns the names and types of a split's features, and its examples in an order of their own."""
  import tensorflow as tf

  dataset = source.get_dataset(split, shuffle=False)
  types = [str(spec.dtype) for spec in tf.nest.flatten(dataset.element_spec)]
  examples = sorted(str(tf.nest.flatten(example)) for example in dataset.as_numpy_iterator())
  return sorted(dataset.element_spec), types, examples


def prepare(
  folder: pathlib.Path,
  built: Iterable[datasets.Dataset],
  download_and_extract: Callable[..., Any],
  download: Callable[..., Any],
) -> pathlib.Path:
  """Lets TFDS's builders prepare data sets in a folder, from files in place of their downloads."""
  import tensorflow_datasets as tfds

  manager = tfds.download.DownloadManager
  with (
    mock.patch.object(manager, "download_and_extract", download_and_extract),
    mock.patch.object(manager, "download", download),
  ):
    for dataset in built:
      tfds.builder(dataset.tfds, data_dir=folder).download_and_prepare()
  return folder


def assert_read_alike(
  dataset: datasets.Dataset, published: pathlib.Path, prepared: pathlib.Path, empty: pathlib.Path
) -> None:
  """Asserts that published files give the examples of the prepared data set."""
  local = datasets.source(dataset, published, str(empty))
  theirs = datasets.source(dataset, empty, str(prepared))
  assert type(theirs).__name__ == "TfdsDataSource" and set(local.splits) == set(theirs.splits)
  for split in local.splits:
    assert contents(local, split) == contents(theirs, split)
