# SPDX-License-Identifier: Apache-2.0
"""Which task a run reads, how, and the cache it is read from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
from jax.experimental import multihost_utils

from switch_t5.data import (
  cache,
  cache_copies,
  example_cache,
  example_tasks,
  file_copies,
  indexed,
  tasks,
  tfds_source,
)
from switch_t5.data.vocabulary import Vocabulary
from switch_t5.errors import ConfigError, DataError, suggest
from switch_t5.model.config import ModelConfig
from switch_t5.storage.location import Location, location

INDEXED = "indexed"
STREAMING = "streaming"
_READERS = (INDEXED, STREAMING)


@dataclasses.dataclass(frozen=True)
class DatasetConfig:
  """A task and how it is read.

  Attributes:
    mixture_or_task_name: MIXTURE_OR_TASK_NAME, a task or mixture of `switch_t5.data.tasks`, or of
      seqio's registries, which a module given as --import adds to.
    task_feature_lengths: {"inputs": S, "targets": T}, in tokens.
    batch_size: sequences of a global step.
    seed: of the order of the rows and of their corruption.
    text_files: globs of .txt or .jsonl files, also .gz, also in a bucket; for text_span_corruption only.
    vocabulary_path: a SentencePiece model; None: the embedded one.
    task_data_dir: TASK_DATA_DIR, folder or bucket of the data sets' own files, e.g. BoolQ/train.jsonl, for the
      tasks of `switch_t5.data.downstream`; None, or a data set that is not there: TFDS's.
    cache_dir: CACHE_DIR, folder or bucket of caches; None: ~/.cache/switch_t5 (or
      $XDG_CACHE_HOME/switch_t5), where copies of those in a bucket lie too.
    tfds_data_dir: TFDS_DATA_DIR, folder or bucket of the data sets that TFDS has prepared; None:
      TFDS's default ($TFDS_DATA_DIR or ~/tensorflow_datasets).
    skip_budget: faulty documents of each task that may be skipped, each with a warning: bad UTF-8,
      lines that are not JSON or are too long.
    reader: 'indexed', from a cache, which goes on exactly at any number of processes; 'streaming',
      straight from the source, at the same number only.
  """

  mixture_or_task_name: str
  task_feature_lengths: dict[str, int]
  batch_size: int
  seed: int = 0
  text_files: str | list[str] | None = None
  vocabulary_path: str | None = None
  task_data_dir: str | None = None
  cache_dir: str | None = None
  tfds_data_dir: str | None = None
  skip_budget: int = 0
  reader: str = INDEXED

  def __post_init__(self):
    lengths = self.task_feature_lengths
    whole = isinstance(lengths, dict) and all(isinstance(n, int) for n in lengths.values())
    if not whole or set(lengths) != {indexed.INPUTS, indexed.TARGETS}:
      raise ConfigError(
        "TASK_FEATURE_LENGTHS is not valid.",
        value=lengths,
        rule="a length in tokens for inputs and for targets",
        remedy='TASK_FEATURE_LENGTHS = {"inputs": 512, "targets": 114}',
      )
    if self.batch_size < 1:
      raise ConfigError("BATCH_SIZE is not positive.", value=self.batch_size, rule="at least 1")
    if type(self.skip_budget) is not int or self.skip_budget < 0:
      raise ConfigError(
        "The skip budget is not a number of documents.",
        value=f"DatasetConfig.skip_budget = {self.skip_budget!r}",
        rule="a whole number, 0 or more",
        remedy="DatasetConfig.skip_budget = 0, or the number of faulty documents that may be skipped",
      )
    if not all(isinstance(name, str) for name in self.text_files or ""):
      raise ConfigError(
        "TEXT_FILES is not valid.",
        value=self.text_files,
        rule="a glob in quotes, or a list of them",
        remedy="TEXT_FILES = 'my/*.txt'",
      )
    texts = self.text_files.split(",") if isinstance(self.text_files, str) else self.text_files
    folders = (self.vocabulary_path, self.task_data_dir, self.cache_dir, self.tfds_data_dir)
    for path in filter(None, [*folders, *(texts or ())]):
      location(path.strip())  # which refuses other stores
    if self.reader not in _READERS:
      raise ConfigError(
        "There is no such reader.",
        value=f"DatasetConfig.reader = {self.reader!r}",
        rule=" or ".join(map(repr, _READERS)),
        remedy=suggest(self.reader, _READERS),
      )

  @property
  def encoder_length(self) -> int:
    """S."""
    return self.task_feature_lengths[indexed.INPUTS]

  @property
  def decoder_length(self) -> int:
    """T."""
    return self.task_feature_lengths[indexed.TARGETS]

  def components(self) -> tuple[tasks.Task, ...]:
    """Returns the tasks of the mixture, or the task; raises if one is unknown or has no text."""
    components = tasks.get_components(
      self.mixture_or_task_name,
      feature_lengths=self.task_feature_lengths,
      text_files=self.text_files,
      skip_budget=self.skip_budget,
      task_data_dir=self.task_data_dir,
      vocabulary_path=self.vocabulary_path,
      tfds_data_dir=self.tfds_data_dir,
    )
    self._check_skip_budget(components)
    return components

  def check_task(self) -> None:
    """Raises if a task is unknown or its text files are not there."""
    if self.reader == INDEXED or self.mixture_or_task_name in tasks.known_names():
      self.components()
    else:
      from switch_t5.data import streaming

      streaming.find_task(self.mixture_or_task_name)
      self._check_skip_budget([])

  def _check_skip_budget(self, components: Sequence[tasks.Task]) -> None:
    """Refuses a budget that none of the tasks heeds: TensorFlow reads them, and finds no fault."""
    heeding = [
      task
      for task in components
      if isinstance(task, tasks.SpanCorruptionTask)
      and (self.reader == INDEXED or not isinstance(task.source, tfds_source.TfdsSource))
    ]
    if self.skip_budget and not heeding:
      fix = f", or DatasetConfig.reader = {INDEXED!r}" if self.reader == STREAMING else ""
      raise ConfigError(
        f"Documents of {self.mixture_or_task_name} cannot be skipped.",
        value=f"DatasetConfig.skip_budget = {self.skip_budget}",
        rule="TensorFlow reads them here, and takes bytes that are not UTF-8 as unknown characters",
        remedy=f"DatasetConfig.skip_budget = 0{fix}",
      )


def cache_root(dataset: DatasetConfig) -> Location:
  """Returns the folder that holds the caches of all tasks."""
  return file_copies.default_root() if dataset.cache_dir is None else location(dataset.cache_dir)


def write_cache(
  task: tasks.Task, directory: Location, *, job: int = 0, jobs: int = 1
) -> cache.CacheInfo | cache.Unfinished:
  """Writes a job's share of a task's cache, or finds it done: see `cache` and `example_cache`."""
  if isinstance(task, example_tasks.ExampleTask):
    return example_cache.write_examples(task, directory, job=job)
  return cache.write_cache(task, directory, job=job, jobs=jobs)


def prepare_cache(dataset: DatasetConfig, task: tasks.Task) -> Path:
  """Returns the task's cache, or its copy on this host; process 0 writes it if it is not there yet."""
  directory = cache.cache_directory(cache_root(dataset), task)
  if jax.process_index() == 0:
    write_cache(task, directory)
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices("cache")
  return cache_copies.copy_cache(directory)


def check_vocabulary(vocabulary: Vocabulary, model: ModelConfig) -> None:
  """Raises DataError if the data has ids that the model's table has not."""
  if vocabulary.size > model.vocab_size:
    raise DataError(
      "The vocabulary is larger than the model's.",
      value=f"{vocabulary.size} ids in the data, ModelConfig.vocab_size = {model.vocab_size}",
      rule="vocab_size is at least the ids of the vocabulary, sentinels included",
      remedy=f"ModelConfig.vocab_size = {vocabulary.size}",
    )


def check_identity(saved: dict[str, object], present: dict[str, object]) -> None:
  """Raises DataError if a checkpoint's position counts rows of another stream."""
  names = [*present, *(name for name in saved if name not in present)]
  changed = [name for name in names if saved.get(name) != present.get(name)]
  if changed:
    raise DataError(
      "The data is not what this run was trained on so far.",
      value="; ".join(
        f"{n}: {_shorten(saved.get(n))}, now {_shorten(present.get(n))}" for n in changed
      ),
      rule="a run goes on with the same task, text, vocabulary, lengths, SEED and reader",
      remedy="restore them, or start a run in another MODEL_DIR",
    )


def _shorten(value: object) -> str:
  text = str(value)
  return text if len(text) <= 80 else f"{text[:77]}..."
