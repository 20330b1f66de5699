# SPDX-License-Identifier: Apache-2.0
"""The data of a run: which task, which rows, and the cache it is read from."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from switch_t5.data import cache, documents, indexed, tasks
from switch_t5.errors import ConfigError, DataError
from switch_t5.model.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class DatasetConfig:
  """A task and how it is read.

  Attributes:
    mixture_or_task_name: MIXTURE_OR_TASK_NAME, one of the tasks of `switch_t5.data.tasks`.
    task_feature_lengths: {"inputs": S, "targets": T}, in tokens.
    batch_size: sequences of a global step.
    seed: of the order of the rows and of their corruption.
    text_files: globs of .txt or .jsonl files, also .gz; for text_span_corruption only.
    vocabulary_path: a SentencePiece model; None: the embedded one.
    task_data_dir: folder of caches; None: ~/.cache/switch_t5 (or $XDG_CACHE_HOME/switch_t5).
  """

  mixture_or_task_name: str
  task_feature_lengths: dict[str, int]
  batch_size: int
  seed: int = 0
  text_files: str | list[str] | None = None
  vocabulary_path: str | None = None
  task_data_dir: str | None = None

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
    if not all(isinstance(name, str) for name in self.text_files or ""):
      raise ConfigError(
        "TEXT_FILES is not valid.",
        value=self.text_files,
        rule="a glob in quotes, or a list of them",
        remedy="TEXT_FILES = 'my/*.txt'",
      )

  @property
  def encoder_length(self) -> int:
    """S."""
    return self.task_feature_lengths[indexed.INPUTS]

  @property
  def decoder_length(self) -> int:
    """T."""
    return self.task_feature_lengths[indexed.TARGETS]

  def task(self) -> tasks.SpanCorruptionTask:
    """Returns the task; raises if it is unknown or its text is not there."""
    return tasks.get_task(
      self.mixture_or_task_name,
      text_files=self.text_files,
      vocabulary_path=self.vocabulary_path,
    )


def cache_root(dataset: DatasetConfig) -> Path:
  """Returns the folder that holds the caches of all tasks."""
  if dataset.task_data_dir is not None:
    return Path(dataset.task_data_dir)
  return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "switch_t5"


def prepare_cache(dataset: DatasetConfig, task: tasks.SpanCorruptionTask) -> Path:
  """Returns the task's cache, written by process 0 if it is not there yet."""
  directory = cache.cache_directory(cache_root(dataset), task)
  if jax.process_index() == 0:
    cache.write_cache(task, directory, splits=documents.SPLITS)
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices("cache")
  return directory


def check_vocabulary(directory: Path, model: ModelConfig) -> None:
  """Raises DataError if the data has ids that the model's table has not."""
  size = int(cache.read_info(directory).vocabulary["size"])
  if size > model.vocab_size:
    raise DataError(
      "The vocabulary is larger than the model's.",
      value=f"{size} ids in the data, ModelConfig.vocab_size = {model.vocab_size}",
      rule="vocab_size is at least the ids of the vocabulary, sentinels included",
      remedy=f"ModelConfig.vocab_size = {size}",
    )


def identity(dataset: DatasetConfig, directory: Path) -> dict[str, object]:
  """Returns what the stream of rows follows from; saved with every checkpoint."""
  info = cache.read_info(directory)
  return {
    "task": info.task,
    "source": dict(sorted(info.source.items())),
    "vocabulary": info.vocabulary["fingerprint"],
    "lengths": dict(sorted(dataset.task_feature_lengths.items())),
    "seed": dataset.seed,
  }


def check_identity(saved: dict[str, object], present: dict[str, object]) -> None:
  """Raises DataError if a checkpoint's position counts rows of another stream."""
  changed = [name for name in present if saved.get(name) != present[name]]
  if changed:
    raise DataError(
      "The data is not what this run was trained on so far.",
      value="; ".join(
        f"{n}: {_shorten(saved.get(n))}, now {_shorten(present[n])}" for n in changed
      ),
      rule="a run goes on with the same task, text, vocabulary, lengths and SEED",
      remedy="restore them, or start a run in another MODEL_DIR",
    )


def _shorten(value: object) -> str:
  text = str(value)
  return text if len(text) <= 80 else f"{text[:77]}..."


def train_reader(dataset: DatasetConfig, directory: Path, rows: np.ndarray):
  """Returns the endless reader of the train split; `rows` are those of this process."""
  return indexed.IndexedReader(
    directory,
    documents.TRAIN,
    feature_lengths=dataset.task_feature_lengths,
    batch_size=dataset.batch_size,
    seed=dataset.seed,
    rows=rows,
  )


def validation_reader(dataset: DatasetConfig, directory: Path, rows: np.ndarray):
  """Returns a reader of one pass over the validation split, always in the same order."""
  return indexed.IndexedReader(
    directory,
    documents.VALIDATION,
    feature_lengths=dataset.task_feature_lengths,
    batch_size=dataset.batch_size,
    seed=0,
    rows=rows,
    shuffle=False,
    num_epochs=1,
  )
