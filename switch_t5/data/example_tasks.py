# SPDX-License-Identifier: Apache-2.0
"""Tasks of seqio's registries, materialised whole: a cache holds the examples that they make.

All steps of the task are done once, with a seed of their own: what they draw at random stays as it
is in every epoch. A task that is to draw anew is read with the streaming reader.

What a cache follows from is as much of a task as can be seen: its name, the names of its steps, their
own source code and simple arguments, the vocabulary, and the source's type, files with their sizes,
and numbers of examples. What a step calls, what it holds in a closure and what a function that makes
examples reads are not seen: who changes those gives the task another name, or deletes the cache.

TensorFlow is loaded when a task is looked at.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from absl import logging

from switch_t5 import errors
from switch_t5.data import documents, tfds_source
from switch_t5.data.downstream import registry
from switch_t5.data.vocabulary import Vocabulary

_FEATURES = ("inputs", "targets")
_SEED = 0


@dataclasses.dataclass(frozen=True)
class ExampleTask:
  """A task of seqio's registries.

  Attributes:
    name: its name there.
    feature_lengths: `{"inputs": S, "targets": T}`, for the steps that depend on them.
  """

  name: str
  feature_lengths: Mapping[str, int]

  def vocabulary(self) -> Vocabulary:
    """Returns the vocabulary of its features; see `streaming.vocabulary_of`.

    Raises:
      ConfigError: also if inputs and targets have different ones.
    """
    tfds_source.load_tensorflow()
    from switch_t5.data import streaming

    features = streaming.find_task(self.name).output_features
    if features["inputs"].vocabulary != features["targets"].vocabulary:
      raise errors.ConfigError(
        "The task's inputs and targets have different vocabularies.",
        value=self.name,
        rule="one vocabulary: the model has one table of embeddings",
      )
    return streaming.vocabulary_of(self.name)

  def provenance(self) -> dict[str, str]:
    """Returns what the examples follow from, as far as it can be seen."""
    task = self._task()
    source = {
      "type": type(task.source).__name__,
      "data": str(getattr(getattr(task.source, "tfds_dataset", None), "name", "")),
      "splits": {split: _split_contents(task.source, split) for split in self.splits()},
    }
    lengths = self.needed_lengths()
    return {
      "seqio": self.name,
      "steps": ", ".join(_function(step).__name__ for step in task.preprocessors),
      "steps_sha256": _sha256([_step_contents(step) for step in task.preprocessors]),
      "source_sha256": _sha256(source),
      "seed": str(_SEED),
      **({} if lengths is None else {"lengths": json.dumps(dict(sorted(lengths.items())))}),
    }

  def fingerprint(self) -> str:
    """Returns a SHA-256 (hex) of `provenance` and the vocabulary."""
    return _sha256([self.provenance(), self.vocabulary().fingerprint])

  def splits(self) -> tuple[str, ...]:
    """Returns which of `train` and `validation` the task has."""
    return tuple(split for split in documents.SPLITS if split in self._task().splits)

  def kept_eos(self) -> tuple[str, ...]:
    """Returns the features whose EOS stays when they are cut."""
    task = self._task()
    if not task.preprocessors or not _appends_eos_after_trim(task.preprocessors[-1]):
      return ()
    return tuple(name for name in _FEATURES if task.output_features[name].add_eos)

  def examples(self, split: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields inputs and targets of each example of a split: int [tokens].

    Raises:
      DataError: its source cannot be read.
    """
    tfds_source.load_tensorflow()
    from switch_t5.data import streaming

    if not registry.provides(self.name):  # ours draw nothing
      logging.warning(
        "%s: the whole task is materialised, split %s: its steps are done once, with seed %d, and what "
        "they draw at random is the same in every epoch.",
        *(self.name, split, _SEED),
      )
    try:
      dataset = self._task().get_dataset(
        sequence_length=self.needed_lengths(),
        split=split,
        shuffle=False,
        seed=_SEED,
        try_in_mem_cache=False,
      )
      dataset = dataset.map(lambda example: tuple(example[name] for name in _FEATURES))
      yield from dataset.as_numpy_iterator()
    except streaming.FAILURES as error:
      raise streaming.unreadable(self.name, error) from error

  def _task(self) -> Any:
    """Returns the `seqio.Task`."""
    tfds_source.load_tensorflow()
    from switch_t5.data import streaming

    return streaming.find_task(self.name)

  def needed_lengths(self) -> dict[str, int] | None:
    """Returns the feature lengths if a step depends on them, other than by cutting at the end."""
    steps = list(self._task().preprocessors)
    if steps and _appends_eos_after_trim(steps[-1]):
      steps.pop()
    return dict(self.feature_lengths) if any(map(_takes_lengths, steps)) else None


def is_registered(name: str) -> bool:
  """Whether seqio's registries have a task or mixture of that name; does not load it."""
  return name in registered_names()


def registered_names() -> set[str]:
  """Returns the names of the tasks and mixtures in seqio's registries; does not load it."""
  seqio = sys.modules.get("seqio")  # who has registered a task has loaded it
  return set() if seqio is None else {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}


def find_components(name: str) -> tuple[tuple[str, ...], tuple[float, ...]]:
  """Returns the names of the tasks of a task or mixture of seqio's registries, and their rates.

  Tasks that have neither a train nor a validation split are left out.

  Raises:
    ConfigError: seqio has none of that name, or it is not made of inputs and targets.
    DataError: none of its tasks has one of the splits.
  """
  tfds_source.load_tensorflow()
  from switch_t5.data import streaming

  provider = streaming.find_task(name)
  members = getattr(provider, "tasks", [provider])
  members = [task for task in members if set(task.splits) & set(documents.SPLITS)]
  if not members:
    raise errors.DataError(
      f"{name} has no examples to train or to validate on.",
      rule=f"a split {' or '.join(documents.SPLITS)}",
      remedy="a test split is read by `switch_t5 infer`.",
    )
  rates = [provider.get_rate(task) for task in members] if len(members) > 1 else [1.0]
  return tuple(task.name for task in members), tuple(map(float, rates))


def _appends_eos_after_trim(step: Callable[..., Any]) -> bool:
  import seqio

  return step is seqio.preprocessors.append_eos_after_trim


def _takes_lengths(step: Callable[..., Any]) -> bool:
  """Whether seqio tells a step the lengths: as an argument, or a field of a dataclass."""
  if dataclasses.is_dataclass(step):
    return "sequence_length" in {field.name for field in dataclasses.fields(step)}
  return "sequence_length" in inspect.signature(step).parameters


def _function(step: Callable[..., Any]) -> Callable[..., Any]:
  """Returns the function or type behind partial applications and decorators."""
  while isinstance(step, functools.partial):
    step = step.func
  step = inspect.unwrap(step)
  return step if hasattr(step, "__name__") else type(step)


def _step_contents(step: Callable[..., Any]) -> dict[str, Any]:
  """Returns what can be seen of a step: its source code and simple arguments."""
  arguments: dict[str, str] = {}
  inner = step
  while isinstance(inner, functools.partial):
    given = dict(enumerate(inner.args)) | inner.keywords
    arguments |= {str(key): _simple(value) for key, value in given.items()}
    inner = inner.func
  try:
    code = inspect.getsource(_function(step))
  except (OSError, TypeError):  # not written in Python, or its file is gone
    code = ""
  return {"name": _function(step).__name__, "code": code, "arguments": arguments}


def _simple(value: object) -> str:
  """Returns a value as JSON, or else its type: what others print may hold an address."""
  try:
    return json.dumps(value, sort_keys=True)
  except TypeError:
    return getattr(value, "__name__", type(value).__name__)


def _split_contents(source: Any, split: str) -> dict[str, Any]:
  """Returns the files of a split with their sizes, and its number of examples if it is known."""
  import tensorflow as tf

  files = {}
  for path in source.list_shards(split):
    # A source that is a function names its splits here, whatever lies in the working directory.
    found = path != split and tf.io.gfile.exists(path) and not tf.io.gfile.isdir(path)
    files[os.path.basename(path)] = tf.io.gfile.stat(path).length if found else None
  contents = {"files": files, "examples": source.num_input_examples(split)}
  if hasattr(source, "sha256"):  # of a data set's own files
    contents["sha256"] = source.sha256(split)
  return contents


def _sha256(content: object) -> str:
  return hashlib.sha256(json.dumps(content, sort_keys=True).encode("utf-8")).hexdigest()
