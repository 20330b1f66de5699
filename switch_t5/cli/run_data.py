# SPDX-License-Identifier: Apache-2.0
"""A run's task, opened: from a cache (`indexed`) or straight from its source (`streaming`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils

from switch_t5.cli.dataset import STREAMING, DatasetConfig, check_vocabulary, prepare_cache
from switch_t5.data import cache, documents, indexed, span_corruption, tasks, tfds_source
from switch_t5.data.vocabulary import Vocabulary
from switch_t5.errors import DataError, MeshError
from switch_t5.model.config import ModelConfig
from switch_t5.types import HostBatch

_SHOWN_COMPONENTS = 8


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
  """The cache of a task, or those of a mixture; see RunData."""

  def __init__(self, dataset: DatasetConfig):
    tasks_ = dataset.components()
    self._dataset, self.vocabulary = dataset, tasks_[0].vocabulary()
    directories = [prepare_cache(dataset, task) for task in tasks_]
    infos = [cache.read_info(directory) for directory in directories]
    mixture = tasks.get_mixture(dataset.mixture_or_task_name)
    rates = mixture.rates_for([_documents(info) for info in infos])
    self._components = list(map(indexed.Component, directories, rates))
    trained = {
      info.task: (info, rate)
      for info, rate in zip(infos, rates, strict=True)
      if rate > 0 and documents.TRAIN in info.splits
    }
    if not trained:
      raise DataError(
        f"{dataset.mixture_or_task_name} has nothing to train on.",
        rule=f"a task with a {documents.TRAIN} split, and a rate above 0",
      )
    sources = {task: dict(info.source) for task, (info, _) in trained.items()}
    rates = tuple(rate for _, rate in trained.values())
    self.identity = _identity(dataset, sources, self.vocabulary, rates)
    contents = [_contents(info, dataset.encoder_length) for info, _ in trained.values()]
    if len(rates) == 1:
      self.description = f"{contents[0]} an epoch, read from {directories[0]}"
    else:
      shares = _percentages(dict(zip(sources, rates, strict=True)), contents)
      self.description = f"{shares}, read from {directories[0].parent}"

  def train_reader(self, rows: np.ndarray) -> indexed.IndexedReader:
    """See RunData."""
    return self._reader(documents.TRAIN, rows, seed=self._dataset.seed)

  def validation_reader(self, rows: np.ndarray) -> indexed.IndexedReader:
    """See RunData."""
    return self._reader(documents.VALIDATION, rows, seed=0, shuffle=False, num_epochs=1, pack=False)

  def unigram_entropy(self) -> float:
    """See RunData."""
    lengths = self._dataset.task_feature_lengths
    return indexed.unigram_entropy(self._components, feature_lengths=lengths)

  def _reader(self, split: str, rows: np.ndarray, **options: Any) -> indexed.IndexedReader:
    return indexed.IndexedReader(
      self._components,
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
    sources, rates = {name: {"seqio": name}}, None
    if name in tasks.known_names():
      components = dataset.components()
      seqio_tasks.register(name, components)
      sources = {task.name: task.provenance() for task in components}
      rates = tasks.get_mixture(name).rates
    self._dataset, self._reader_class = dataset, streaming.StreamingReader
    self.vocabulary = streaming.vocabulary_of(name)
    self.identity = _identity(dataset, sources, self.vocabulary, rates) | {"reader": STREAMING}
    self.description = "streamed from " + "; ".join(
      ", ".join(f"{k} {v}" for k, v in source.items()) for source in sources.values()
    )

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
  dataset: DatasetConfig,
  sources: Mapping[str, Mapping[str, str]],
  vocabulary: Vocabulary,
  rates: Sequence[float] | None,
) -> dict[str, Any]:
  """Returns what rows follow from: the source of the task, or source and rate of each of several.

  No rates: they follow from the sources.
  """
  parts: dict[str, Any] = {}
  for index, (name, source) in enumerate(sources.items()):
    if len(sources) == 1:
      parts["source"] = dict(sorted(source.items()))
    else:
      rate = {} if rates is None else {"rate": rates[index]}
      parts[f"source of {name}"] = rate | dict(sorted(source.items()))
  return {
    "task": dataset.mixture_or_task_name,
    **parts,
    "vocabulary": vocabulary.fingerprint,
    "lengths": dict(sorted(dataset.task_feature_lengths.items())),
    "seed": dataset.seed,
  }


def _documents(info: cache.CacheInfo) -> int:
  """Returns the number of a task's training documents."""
  return info.splits[documents.TRAIN].documents if documents.TRAIN in info.splits else 0


def _contents(info: cache.CacheInfo, encoder_length: int) -> str:
  """Returns how much the training split has to give."""
  split = info.splits[documents.TRAIN]
  if info.kind == cache.EXAMPLES:
    return f"{split.documents:,} examples"
  return f"{split.tokens // span_corruption.window_for_inputs(encoder_length):,} rows"


def _percentages(rates: Mapping[str, float], contents: Sequence[str]) -> str:
  """Returns the shares of components, and what they have to give; of many only the largest."""
  described = dict(zip(rates, contents, strict=True))
  shown = sorted(rates, key=lambda name: -rates[name])[:_SHOWN_COMPONENTS]
  words = [f"{rates[name] / sum(rates.values()):.1%} {name} ({described[name]})" for name in shown]
  more = len(rates) - len(shown)
  return ", ".join(words) + (f" and {more} more" if more else "")


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
