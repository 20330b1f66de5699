# SPDX-License-Identifier: Apache-2.0
"""Tasks answered by a run's model: their metrics by public name, a table, predictions."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax

from switch_t5.cli.dataset import DatasetConfig
from switch_t5.cli.session import Session
from switch_t5.cli.train_config import TaskEvaluation
from switch_t5.data.downstream import registry
from switch_t5.data.vocabulary import Vocabulary
from switch_t5.decoding.config import DecodingConfig
from switch_t5.errors import ConfigError, DataError
from switch_t5.evaluation.predictions import TaskResult, write_predictions
from switch_t5.evaluation.submission import write_submission
from switch_t5.inference.text_model import TextModel
from switch_t5.scores.superglue import LEADERBOARD, superglue_average
from switch_t5.storage.location import Location
from switch_t5.types import PyTree

SUPERGLUE_AVERAGE = "eval/super_glue/average"


class Evaluated(NamedTuple):
  """What the tasks' evaluation found.

  Attributes:
    metrics: by public name, `eval/<task>/<metric>`.
    results: of each task.
    seconds: it took.
  """

  metrics: dict[str, float]
  results: dict[str, TaskResult]
  seconds: float


class TaskEvaluator:
  """The examples of the tasks, read once, for the parameters of any step.

  Args:
    config: which tasks.
    dataset: of the run.
    session: of the run.
    vocabulary: of the run; None: that of the tasks.

  Raises:
    ConfigError: there is no such task, or no task of a mixture can be evaluated.
    DataError: the examples cannot be read, or have another vocabulary than the run.
  """

  def __init__(
    self,
    config: TaskEvaluation,
    dataset: DatasetConfig,
    session: Session,
    vocabulary: Vocabulary | None,
  ):
    name = config.mixture_or_task_name or dataset.mixture_or_task_name
    _register(name, dataset)
    from switch_t5.data import streaming
    from switch_t5.evaluation import seqio_evaluation

    tasks = seqio_evaluation.evaluated_tasks(name, config.split)
    if not tasks:
      raise ConfigError(
        "There is nothing to evaluate.",
        value=f"{name}, split {config.split}",
        rule="a task that has this split, and metrics",
        remedy="TaskEvaluation.mixture_or_task_name and TaskEvaluation.split say what is evaluated; "
        "train.task_evaluation = None evaluates no task",
      )
    of_tasks = streaming.vocabulary_of(name)
    if vocabulary is not None and of_tasks.fingerprint != vocabulary.fingerprint:
      raise DataError(
        "The tasks that are evaluated have another vocabulary than the run.",
        value=name,
        rule="one vocabulary, so that an id means the same",
        remedy="give the tasks the vocabulary of the run (VOCABULARY_PATH)",
      )
    self._evaluation = seqio_evaluation.SeqioEvaluation(
      tasks, dataset.task_feature_lengths, split=config.split, max_examples=config.max_examples
    )
    self._decoding = config.decoding or DecodingConfig(max_tokens=dataset.decoder_length)
    self._definition, self._vocabulary, self._mesh = session.definition, of_tasks, session.mesh
    self._batch_size = config.batch_size or dataset.batch_size
    self._model: TextModel | None = None

  def describe(self) -> str:
    """Returns what is evaluated, and what of it is cut, in lines."""
    evaluation = self._evaluation
    lines = [f"Evaluation: {evaluation.num_examples:,} examples of {', '.join(evaluation.names)}"]
    lines += [
      f"  {task}: the {feature} of {count:,} examples are longer than TASK_FEATURE_LENGTHS and are cut"
      for (task, feature), count in evaluation.too_long.items()
    ]
    return "\n".join(lines)

  def metric_names(self) -> list[str]:
    """Returns the public names of all metrics, before anything was answered."""
    found = self._evaluation.metric_names()
    values = {task: dict.fromkeys(names, 0.0) for task, names in found.items()}
    return list(public_metrics(values))

  def evaluate(self, params: PyTree, stop: Callable[[], bool]) -> Evaluated | None:
    """Answers all examples and scores the answers; None if `stop` said so. All processes call it."""
    started = time.perf_counter()
    if self._model is None:
      self._model = TextModel(
        self._definition, params, self._vocabulary, self._mesh, batch_size=self._batch_size
      )
    results = self._evaluation.evaluate(self._model.with_params(params), self._decoding, stop=stop)
    if results is None:
      return None
    metrics = public_metrics({task: result.metrics for task, result in results.items()})
    return Evaluated(metrics, results, time.perf_counter() - started)


def public_metrics(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
  """Returns the metrics of tasks by public name, with SuperGLUE's average if its tasks are all there."""
  public = {
    f"eval/{task}/{name}": value for task, found in metrics.items() for name, value in found.items()
  }
  average = superglue_average(metrics)
  return public if average is None else public | {SUPERGLUE_AVERAGE: average}


def write_answers(directory: Location, evaluated: Evaluated, name: str) -> None:
  """Process 0 writes predictions and, of SuperGLUE, the submission of a checkpoint."""
  if jax.process_index() == 0:
    write_predictions(directory, evaluated.results, name)
    write_submission(directory, evaluated.results, name)


def table(evaluated: Evaluated) -> str:
  """Returns a line for each task: its metrics, and how many answers are none of its labels."""
  width = max(map(len, evaluated.results))
  lines = []
  for task, result in evaluated.results.items():
    words = [f"{name} {value:.2f}" for name, value in result.metrics.items()] or ["no scores"]
    if result.num_invalid:
      words.append(f"({result.num_invalid} of {len(result.answers)} answers are no label)")
    lines.append(f"  {task:{width}}  {'  '.join(words)}")
  if SUPERGLUE_AVERAGE in evaluated.metrics:
    average = evaluated.metrics[SUPERGLUE_AVERAGE]
    lines.append(f"  {'SuperGLUE':{width}}  average of {len(LEADERBOARD)} tasks {average:.2f}")
  return "\n".join(lines)


def _register(name: str, dataset: DatasetConfig) -> None:
  """Registers tasks of ours with seqio; a module of the user's has registered its own."""
  if registry.provides(name):
    registry.register(
      name,
      task_data_dir=dataset.task_data_dir,
      tfds_data_dir=dataset.tfds_data_dir,
      vocabulary_path=dataset.vocabulary_path,
    )
