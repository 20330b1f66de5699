# SPDX-License-Identifier: Apache-2.0
"""The texts that `infer` answers: of a file, or of a split of tasks."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np

from switch_t5.cli.infer_config import InferConfig
from switch_t5.data import example_tasks, shards, tfds_source
from switch_t5.data.downstream import registry
from switch_t5.data.text_records import read_texts
from switch_t5.data.vocabulary import Vocabulary
from switch_t5.errors import ConfigError, DataError, suggest
from switch_t5.evaluation.predictions import cut
from switch_t5.storage import files
from switch_t5.storage.location import location

_INPUTS, _TARGETS = "inputs", "targets"


class Text(NamedTuple):
  """One text that is answered.

  Attributes:
    ids: at most as many as are allowed, EOS included.
    is_cut: whether there were more.
    row: what is written beside the answer.
  """

  ids: list[int]
  is_cut: bool
  row: dict[str, str]


class Inputs(Protocol):
  """Texts in a fixed order."""

  def __len__(self) -> int:
    """Returns their number."""

  def contents(self) -> dict[str, Any]:
    """Returns what says that they are the same texts, JSON by name."""

  def read(self, start: int) -> Iterator[Text]:
    """Yields them, from one of them on."""


def open_inputs(config: InferConfig, vocabulary: Vocabulary) -> Inputs:
  """Reads all texts once: counts them, and finds what is wrong with them.

  Raises:
    DataError: a file or a task cannot be read, a line is not as it should be, or a task has another
      vocabulary.
    ConfigError: there is no such task.
  """
  length = config.task_feature_lengths[_INPUTS]
  if config.input_file is not None:
    return FileTexts(config.input_file, length, vocabulary)
  return TaskTexts(config, vocabulary)


class FileTexts:
  """The lines of a file."""

  def __init__(self, path: str, length: int, vocabulary: Vocabulary):
    self._path, self._length, self._vocabulary = path, length, vocabulary
    self._count = sum(1 for _ in read_texts(path, _INPUTS))
    self._sha256 = shards.sha256(location(path))

  def __len__(self) -> int:
    return self._count

  def contents(self) -> dict[str, Any]:
    """Returns the file's size and hash, wherever it lies."""
    return {
      "INPUT_FILE, bytes": files.size(location(self._path)),
      "INPUT_FILE, sha256": self._sha256,
    }

  def read(self, start: int) -> Iterator[Text]:
    """Yields the texts from one of them on."""
    for text in itertools.islice(read_texts(self._path, _INPUTS), start, None):
      ids = [*self._vocabulary.encode(text), self._vocabulary.eos_id]
      shorter = cut(ids, self._length, keeps_eos=True)
      yield Text(shorter, len(ids) > self._length, {_INPUTS: text})


class TaskTexts:
  """The examples of a task, or of the tasks of a mixture one after the other."""

  def __init__(self, config: InferConfig, vocabulary: Vocabulary):
    name = str(config.mixture_or_task_name)
    self._config = config
    self._names = self._find(name, vocabulary)
    self._is_mixture = self._names != [name]
    digest, self._count = hashlib.sha256(), 0
    for text in self.read(0):
      digest.update(np.asarray(text.ids, np.int32).tobytes())
      self._count += 1
    if not self._count:
      raise DataError("The split is empty.", value=f"{name}, {config.split}")
    self._sha256 = digest.hexdigest()

  def __len__(self) -> int:
    return self._count

  def contents(self) -> dict[str, Any]:
    """Returns the names, and a hash of the ids."""
    return {
      "MIXTURE_OR_TASK_NAME": self._config.mixture_or_task_name,
      "SPLIT": self._config.split,
      "examples, sha256": self._sha256,
    }

  def read(self, start: int) -> Iterator[Text]:
    """Yields the inputs from one of them on."""
    examples = (pair for name in self._names for pair in self._examples(name))
    return itertools.islice(examples, start, None)

  def _find(self, name: str, vocabulary: Vocabulary) -> list[str]:
    """Returns the names of the tasks that have the split, once they are registered and checked."""
    config = self._config
    _register(name, config, vocabulary)
    tfds_source.load_tensorflow()
    import seqio

    from switch_t5.data import streaming

    if streaming.vocabulary_of(name).fingerprint != vocabulary.fingerprint:
      raise DataError(
        "The task has another vocabulary than the model.",
        value=f"{name}: {streaming.vocabulary_of(name).path}; the model's: {vocabulary.path}",
        rule="one vocabulary, so that an id means the same",
        remedy="register the task with the model's vocabulary",
      )
    tasks = seqio.get_subtasks(streaming.find_task(name))
    found = [task.name for task in tasks if config.split in task.splits]
    if not found:
      splits = sorted({split for task in tasks for split in task.splits})
      raise DataError(
        "The task has no such split.",
        value=f"{name}, SPLIT = {config.split!r}",
        rule="a split of the task, or of one of the mixture's tasks",
        remedy=suggest(config.split, splits),
      )
    return found

  def _examples(self, name: str) -> Iterator[Text]:
    """Yields the examples of one task."""
    from switch_t5.data import streaming
    from switch_t5.evaluation.seqio_evaluation import feature_text

    described = example_tasks.ExampleTask(name, self._config.task_feature_lengths)
    lengths = described.needed_lengths()
    if lengths is not None and _TARGETS not in lengths:
      raise ConfigError(
        "TASK_FEATURE_LENGTHS lacks the targets' length.",
        value=f"TASK_FEATURE_LENGTHS = {lengths}",
        rule=f"a step of {name} depends on it",
        remedy="TASK_FEATURE_LENGTHS = {'inputs': 512, 'targets': 114}",
      )
    task, keeps_eos = streaming.find_task(name), _INPUTS in described.kept_eos()
    length = self._config.task_feature_lengths[_INPUTS]
    try:
      dataset = task.get_dataset(
        sequence_length=lengths,
        split=self._config.split,
        shuffle=False,
        seed=0,
        try_in_mem_cache=False,
      )
      for example in dataset.as_numpy_iterator():
        ids = np.asarray(example[_INPUTS]).tolist()
        row = {key: feature_text(task, example, key) for key in (_INPUTS, _TARGETS)}
        named = {"task": name} if self._is_mixture else {}
        yield Text(cut(ids, length, keeps_eos=keeps_eos), len(ids) > length, named | row)
    except streaming.FAILURES as error:
      raise streaming.unreadable(name, error) from error


def _register(name: str, config: InferConfig, vocabulary: Vocabulary) -> None:
  """Makes a task known to seqio, if it is not one of a module given as --import."""
  if registry.provides(name):
    registry.register(
      name,
      task_data_dir=config.task_data_dir,
      tfds_data_dir=config.tfds_data_dir,
      vocabulary_path=vocabulary.path,
    )
  elif not example_tasks.is_registered(name):
    raise ConfigError(
      "The task is not known.",
      value=name,
      rule="a task or mixture of the paper's section 4, or of seqio's registries",
      remedy=f"{suggest(name, [*registry.names(), *example_tasks.registered_names()])} A module that "
      "registers tasks is given as --import=MODULE, texts of your own as INPUT_FILE.",
    )
