# SPDX-License-Identifier: Apache-2.0
"""The tasks and mixtures of the paper's section 4 by name, and their registration with seqio.

Names and rates are known without TensorFlow.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from absl import logging

from switch_t5 import errors
from switch_t5.data import documents, tfds_source, vocabulary
from switch_t5.data.downstream import (
  anli,
  choices,
  closed_book,
  datasets,
  glue_tasks,
  squad,
  summaries,
  superglue_tasks,
  wmt,
)
from switch_t5.data.downstream.task import DownstreamTask

if TYPE_CHECKING:
  import seqio

_MODULES = (superglue_tasks, glue_tasks, squad, summaries, choices, anli, closed_book, wmt)
_FAMILIES = tuple(module.FAMILY for module in _MODULES)
_TASKS = {task.name: task for family in _FAMILIES for task in family.tasks}
_MIXTURES = {name: rates for family in _FAMILIES for name, rates in family.mixtures.items()}
_registered: dict[str, Any] = {}  # what `register` has put into seqio's registries


@dataclasses.dataclass(frozen=True)
class Registered:
  """A task or mixture that is in seqio's registries.

  Attributes:
    name: its name there.
    rates: of the tasks that are trained on: those with a train split and a rate above 0.
    evaluated: tasks with a validation split and metrics.
  """

  name: str
  rates: Mapping[str, float]
  evaluated: tuple[str, ...]


def names() -> list[str]:
  """Returns the names of all tasks and mixtures."""
  return [*_TASKS, *_MIXTURES]


def provides(name: str) -> bool:
  """Whether a name is one of `names()`, and no other module has registered it with seqio."""
  seqio = sys.modules.get("seqio")  # who has registered a task has loaded it
  if name not in names() or seqio is None:
    return name in names()
  registry = seqio.MixtureRegistry if name in _MIXTURES else seqio.TaskRegistry
  return name not in registry.names() or registry.get(name) is _registered.get(name)


def get_task(name: str) -> DownstreamTask:
  """Returns the description of a task."""
  return _TASKS[name]


def rates(name: str) -> dict[str, float]:
  """Returns the rate of each task of a mixture, 0 for what is only evaluated; 1 for a task alone."""
  return dict(_MIXTURES.get(name, {name: 1.0}))


def mixture_tasks(name: str) -> tuple[str, ...]:
  """Returns the names of a mixture's tasks, or the task's own."""
  return tuple(rates(name))


def register(
  name: str,
  *,
  task_data_dir: str | os.PathLike[str] | None = None,
  tfds_data_dir: str | None = None,
  vocabulary_path: str | None = None,
) -> Registered:
  """Registers a task, or a mixture and its tasks, with seqio, in place of others of their names.

  Of a mixture, tasks whose data are not there are left out, with a warning that names them.

  Args:
    name: one of `names()`.
    task_data_dir: TASK_DATA_DIR, folder of the data sets' published files.
    tfds_data_dir: TFDS_DATA_DIR, folder of data sets that TFDS has prepared; None: its default.
    vocabulary_path: a SentencePiece model file; None: the embedded one.

  Raises:
    DataError: the data of the task, or of each task of the mixture, are not there; or the
      vocabulary cannot be read.
  """
  path = vocabulary.on_this_host(vocabulary_path or vocabulary.embedded_vocabulary_path())
  vocabulary.Vocabulary(path)  # a missing file is our error here, not TensorFlow's later
  tfds_source.load_tensorflow()
  import seqio

  sources: dict[str, seqio.DataSource] = {}
  for task in map(get_task, mixture_tasks(name)):
    try:
      sources[task.name] = datasets.source(task.dataset, task_data_dir, tfds_data_dir, task.splits)
    except errors.DataError as error:
      missing = error
      if name not in _MIXTURES:
        raise
      _warn(f"{task.name} is left out of {name}: {error.what} ({error.value})")
  if not sources:
    raise missing
  feature = seqio.Feature(seqio.SentencePieceVocabulary(path, vocabulary.EXTRA_IDS), add_eos=True)
  for task_name, source in sources.items():
    _register_task(get_task(task_name), source, feature)
  registered_rates = {task: rate for task, rate in rates(name).items() if task in sources}
  if name in _MIXTURES:
    if name in seqio.MixtureRegistry.names():
      seqio.MixtureRegistry.remove(name)
    seqio.MixtureRegistry.add(name, list(registered_rates.items()))
    _registered[name] = seqio.MixtureRegistry.get(name)
  return Registered(
    name,
    {
      task: rate
      for task, rate in registered_rates.items()
      if rate and documents.TRAIN in sources[task].splits
    },
    tuple(
      task
      for task, source in sources.items()
      if documents.VALIDATION in source.splits and get_task(task).metrics
    ),
  )


@functools.cache
def _warn(text: str) -> None:
  """Warns once in a process."""
  logging.warning("%s", text)


def _register_task(task: DownstreamTask, source: seqio.DataSource, feature: seqio.Feature) -> None:
  """Registers one task, with T5's steps after its own ones."""
  import seqio

  name = task.sentinel_of or task.name
  for replaced in {name, task.name} & set(seqio.TaskRegistry.names()):
    seqio.TaskRegistry.remove(replaced)
  seqio.TaskRegistry.add(
    name,
    source=source,
    preprocessors=[
      *task.preprocessors,
      seqio.preprocessors.tokenize,
      seqio.CacheDatasetPlaceholder(),
      seqio.preprocessors.append_eos_after_trim,
    ],
    output_features={"inputs": feature, "targets": feature},
    postprocess_fn=task.postprocess,
    metric_fns=list(task.metrics),
  )
  _registered[name] = seqio.TaskRegistry.get(name)
  if task.sentinel_of:
    seqio.experimental.add_task_with_sentinels(name)
    _registered[task.name] = seqio.TaskRegistry.get(task.name)
