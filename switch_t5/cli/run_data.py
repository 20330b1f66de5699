# SPDX-License-Identifier: Apache-2.0
"""A run's task, opened: from a cache (`indexed`) or straight from its source (`streaming`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils

from switch_t5.cli.dataset import STREAMING, DatasetConfig, check_vocabulary, prepare_cache
from switch_t5.data import cache, documents, indexed, span_corruption, tasks, tfds_source
from switch_t5.data.vocabulary import Vocabulary
from switch_t5.errors import MeshError
from switch_t5.model.config import ModelConfig
from switch_t5.types import HostBatch


class Reader(Protocol):
  """Batches of this process's rows, with a position that is saved with every checkpoint."""

  def __iter__(self) -> Reader: ...

  def __next__(self) -> HostBatch: ...

  def state(self) -> dict[str, Any]:
    """Returns the position as JSON; every process of the run asks for it."""

  def restore(self, state: Mapping[str, Any]) -> None:
    """Goes on at a position."""


class RunData(Protocol):
  """A run's task, opened.

  Attributes:
    vocabulary: of the task.
    identity: what the stream of rows follows from; saved with every checkpoint.
    description: of where the rows come from.
  """

  vocabulary: Vocabulary
  identity: dict[str, Any]
  description: str

  def train_reader(self, rows: np.ndarray) -> Reader:
    """Returns the endless reader of the train split; `rows` are those of this process."""

  def validation_reader(self, rows: np.ndarray) -> Reader:
    """Returns a reader of one pass over the validation split, always in the same order."""

  def unigram_entropy(self) -> float | None:
    """Returns nats per held-out target of the best model without context, if it is known."""


def open_data(dataset: DatasetConfig, model: ModelConfig) -> RunData:
  """Opens a run's task; the indexed reader's cache is written first if it is not there.

  Raises:
    ConfigError: the task is unknown, or not made for an encoder-decoder model.
    DataError: its data is not there, or its vocabulary is larger than the model's.
  """
  data = StreamedData(dataset) if dataset.reader == STREAMING else IndexedData(dataset)
  check_vocabulary(data.vocabulary, model)
  return data


class IndexedData:
  """A task's cache; see RunData."""

  def __init__(self, dataset: DatasetConfig):
    task = dataset.task()
    self._dataset, self.vocabulary = dataset, task.vocabulary()
    self._directory = prepare_cache(dataset, task)
    info = cache.read_info(self._directory)
    self.identity = _identity(dataset, info.source, self.vocabulary)
    window = span_corruption.window_for_inputs(dataset.encoder_length)
    rows = info.splits[documents.TRAIN].tokens // window
    self.description = f"{rows:,} rows an epoch, read from {self._directory}"

  def train_reader(self, rows: np.ndarray) -> indexed.IndexedReader:
    """See RunData."""
    return self._reader(documents.TRAIN, rows, seed=self._dataset.seed)

  def validation_reader(self, rows: np.ndarray) -> indexed.IndexedReader:
    """See RunData."""
    return self._reader(documents.VALIDATION, rows, seed=0, shuffle=False, num_epochs=1)

  def unigram_entropy(self) -> float:
    """See RunData."""
    lengths = self._dataset.task_feature_lengths
    return indexed.unigram_entropy(self._directory, feature_lengths=lengths)

  def _reader(self, split: str, rows: np.ndarray, **options: Any) -> indexed.IndexedReader:
    return indexed.IndexedReader(
      self._directory,
      split,
      feature_lengths=self._dataset.task_feature_lengths,
      batch_size=self._dataset.batch_size,
      rows=rows,
      **options,
    )


class StreamedData:
  """A task of seqio's, one of ours or of a module given as --import; see RunData."""

  def __init__(self, dataset: DatasetConfig):
    tfds_source.load_tensorflow()
    from switch_t5.data import seqio_tasks, streaming

    name = dataset.mixture_or_task_name
    source = {"seqio": name}
    if name in tasks.known_names():
      task = dataset.task()
      source = task.source.provenance()
      seqio_tasks.register_task(task)
    self._dataset, self._reader_class = dataset, streaming.StreamingReader
    self.vocabulary = streaming.vocabulary_of(name)
    self.identity = _identity(dataset, source, self.vocabulary) | {"reader": STREAMING}
    self.description = "streamed from " + ", ".join(f"{k} {v}" for k, v in source.items())

  def train_reader(self, rows: np.ndarray) -> Reader:
    """See RunData."""
    index, count = _shard(rows, self._dataset.batch_size)
    return self._reader_class(
      self._dataset.mixture_or_task_name,
      documents.TRAIN,
      feature_lengths=self._dataset.task_feature_lengths,
      batch_size=len(rows),
      seed=self._dataset.seed,
      shard_index=index,
      num_shards=count,
    )

  def validation_reader(self, rows: np.ndarray) -> Reader:
    """See RunData; every process reads all rows, so that all have as many batches."""
    return self._reader_class(
      self._dataset.mixture_or_task_name,
      documents.VALIDATION,
      feature_lengths=self._dataset.task_feature_lengths,
      batch_size=self._dataset.batch_size,
      seed=0,
      rows=rows,
      shuffle=False,
      num_epochs=1,
      pack=False,
    )

  def unigram_entropy(self) -> None:
    """See RunData: it would take a pass over the source."""
    return None


def _identity(
  dataset: DatasetConfig, source: Mapping[str, str], vocabulary: Vocabulary
) -> dict[str, Any]:
  return {
    "task": dataset.mixture_or_task_name,
    "source": dict(sorted(source.items())),
    "vocabulary": vocabulary.fingerprint,
    "lengths": dict(sorted(dataset.task_feature_lengths.items())),
    "seed": dataset.seed,
  }


def _shard(rows: np.ndarray, batch_size: int) -> tuple[int, int]:
  """Returns which shard this process reads, and of how many: those with the same rows share one."""
  if jax.process_count() == 1:
    return 0, 1
  firsts = np.unique(multihost_utils.process_allgather(rows[0]))
  if len(firsts) * len(rows) != batch_size:
    raise MeshError(
      "The processes' rows overlap in part, so the streamed data cannot be divided.",
      value=f"{len(rows)} of {batch_size} rows on process {jax.process_index()}",
      rule="processes have the same rows of the batch, or none in common",
      remedy="choose MESH_SHAPE so that the devices of a process divide data x expert",
    )
  return int(np.searchsorted(firsts, rows[0])), len(firsts)
