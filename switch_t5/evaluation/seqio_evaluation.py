# SPDX-License-Identifier: Apache-2.0
"""Evaluation of seqio's tasks by the metrics they name.

Examples are read and tokenised once, and may be answered any number of times. As in seqio's own
Evaluator an output is decoded, `postprocess_fn` makes a prediction of it as it has made a target of
the targets, and the task's `metric_fns` compare the two.

This module loads TensorFlow.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import seqio

from switch_t5 import errors
from switch_t5.data import documents, streaming
from switch_t5.data.example_tasks import ExampleTask
from switch_t5.decoding.config import DecodingConfig
from switch_t5.evaluation.predictions import (
  Answer,
  Predictor,
  TaskResult,
  cut,
  in_parts,
  is_no_label,
)

_VALIDATION = documents.VALIDATION
_FEATURES = ("inputs", "targets")
_UNKNOWN = "<unk>"  # the targets of examples without labels
_PARTS = 8  # batches between two questions whether to stop
_TRIED = 64  # examples that metrics are tried on
_SEED = 0


class SeqioEvaluation:
  """The examples of some tasks, ready to be answered.

  Attributes:
    names: of the tasks.
    too_long: for each task and feature with examples that were cut, how many.

  Args:
    names: of tasks in seqio's registries that have the split.
    feature_lengths: `{"inputs": S, "targets": T}`: inputs are cut to S, targets that are scored to T.
    split: its name.
    max_examples: of each task, the first ones; None: all.

  Raises:
    ConfigError: a task has metrics of a kind that is not known here.
    DataError: a task cannot be read, or has no examples.
  """

  def __init__(
    self,
    names: Sequence[str],
    feature_lengths: Mapping[str, int],
    *,
    split: str = _VALIDATION,
    max_examples: int | None = None,
  ):
    self._tasks = [
      _TaskExamples(ExampleTask(name, feature_lengths), split, max_examples) for name in names
    ]
    self.names = tuple(names)
    self.too_long = {
      (task.name, feature): count
      for task in self._tasks
      for feature, count in task.too_long.items()
      if count
    }

  @property
  def num_examples(self) -> int:
    """Of all tasks."""
    return sum(len(task.examples) for task in self._tasks)

  def metric_names(self) -> dict[str, list[str]]:
    """Returns the names of each task's metrics, found by scoring some of its own targets."""
    return {task.name: list(task.metrics_of_targets()) for task in self._tasks}

  def evaluate(
    self,
    predictor: Predictor,
    decoding: DecodingConfig,
    *,
    stop: Callable[[], bool] = lambda: False,
  ) -> dict[str, TaskResult] | None:
    """Answers the examples and scores the answers; every process of a run does so.

    Args:
      predictor: the model.
      decoding: how it answers.
      stop: asked between parts of the work; if it says so there is no result.
    """
    results: dict[str, TaskResult] = {}
    for task in self._tasks:
      result = task.evaluate(predictor, decoding, stop)
      if result is None:
        return None
      results[task.name] = result
    return results


class _TaskExamples:
  """One task's examples."""

  def __init__(self, described: ExampleTask, split: str, max_examples: int | None):
    self.name = described.name
    self._task = _checked(streaming.find_task(self.name), split)
    self._vocabulary = self._task.output_features["targets"].vocabulary
    try:
      dataset = self._task.get_dataset(
        sequence_length=described.needed_lengths(),
        split=split,
        shuffle=False,
        seed=_SEED,
        try_in_mem_cache=False,
      )
      read = itertools.islice(dataset.as_numpy_iterator(), max_examples)
      self.examples: list[Mapping[str, Any]] = list(read)
    except streaming.FAILURES as error:
      raise streaming.unreadable(self.name, error) from error
    if not self.examples:
      raise errors.DataError(
        "A split that is to be evaluated is empty.",
        value=f"{self.name}, {split}",
        rule="at least one example",
      )
    self._ids: dict[str, list[list[int]]] = {}
    self.too_long: dict[str, int] = {}
    for feature, length in described.feature_lengths.items():
      whole = [np.asarray(example[feature]).tolist() for example in self.examples]
      self.too_long[feature] = sum(len(ids) > length for ids in whole)
      keeps_eos = feature in described.kept_eos()
      self._ids[feature] = [cut(ids, length, keeps_eos=keeps_eos) for ids in whole]
    self._texts = {
      feature: [feature_text(self._task, example, feature) for example in self.examples]
      for feature in self._ids
    }
    self._targets = [
      self._task.postprocess_fn(text, example=example, is_target=True)
      for text, example in zip(self._texts["targets"], self.examples, strict=True)
    ]

  def evaluate(
    self, predictor: Predictor, decoding: DecodingConfig, stop: Callable[[], bool]
  ) -> TaskResult | None:
    """See `SeqioEvaluation.evaluate`."""
    inputs, targets = self._ids["inputs"], self._ids["targets"]
    size = _PARTS * predictor.batch_size
    # ReCoRD has an example for each right answer, with the same inputs.
    numbers = {tuple(ids): number for number, ids in enumerate(inputs)}
    different = [inputs[number] for number in numbers.values()]
    found = in_parts(
      different,
      lambda part: predictor.generate_ids([different[n] for n in part], decoding),
      size,
      stop,
    )
    if found is None:
      return None
    outputs = {
      ids: self._vocabulary.decode(list(answer.ids))
      for ids, answer in zip(numbers, found, strict=True)
    }
    answers = self._answers([outputs[tuple(ids)] for ids in inputs])
    scores = None
    if self._task.score_metric_fns and self._are_labelled():
      scores = in_parts(
        inputs,
        lambda part: predictor.score_ids([inputs[n] for n in part], [targets[n] for n in part]),
        size,
        stop,
      )
      if scores is None:
        return None
    return TaskResult(self._metrics(answers, scores), answers)

  def metrics_of_targets(self) -> dict[str, float]:
    """Returns the metrics of a model that gives the right answers, to the first examples."""
    answers = self._answers(self._texts["targets"][:_TRIED])
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # of correlations of few values, for instance
      return self._metrics(answers, [0.0] * len(answers))

  def _answers(self, outputs: Sequence[str]) -> list[Answer]:
    """Returns the answers to the first examples."""
    columns = zip(
      self.examples, *(self._texts[name] for name in _FEATURES), self._targets, strict=True
    )
    return [
      Answer(
        example,
        inputs,
        targets,
        output,
        target,
        self._task.postprocess_fn(output, example=example, is_target=False),
      )
      for (example, inputs, targets, target), output in zip(columns, outputs, strict=False)
    ]

  def _metrics(self, answers: Sequence[Answer], scores: Sequence[float] | None) -> dict[str, float]:
    if not self._are_labelled():
      return {}
    targets = [answer.target for answer in answers]
    predictions = [answer.prediction for answer in answers]
    found: dict[str, Any] = {}
    for function in self._task.predict_metric_fns:
      found |= function(targets, predictions)
    for function in self._task.score_metric_fns:
      found |= function(targets, scores)
    # seqio also has texts and pictures as metrics; these are no numbers.
    values = {name: getattr(value, "value", value) for name, value in found.items()}
    return {
      name: float(value)
      for name, value in values.items()
      if isinstance(value, int | float | np.number)
    }

  def _are_labelled(self) -> bool:
    """Whether the split has targets: test splits of benchmarks have none."""
    return any(
      text != _UNKNOWN and not is_no_label(target)
      for text, target in zip(self._texts["targets"], self._targets, strict=True)
    )


def evaluated_tasks(name: str, split: str) -> tuple[str, ...]:
  """Returns the names of the tasks of a task or mixture in seqio's registries that are evaluated.

  These have the split, and metrics; other splits than `validation` are also answered without.
  """
  return tuple(
    task.name
    for task in seqio.get_subtasks(streaming.find_task(name))
    if split in task.splits and (task.metric_fns or task.metric_objs or split != _VALIDATION)
  )


def feature_text(task: seqio.Task, example: Mapping[str, Any], feature: str) -> str:
  """Returns a feature's text, as it was before it was tokenised where the task keeps that."""
  text = example.get(f"{feature}_pretokenized")
  if isinstance(text, bytes):
    return text.decode("utf-8", errors="replace")
  if isinstance(text, str):
    return text
  vocabulary = task.output_features[feature].vocabulary
  return vocabulary.decode(np.asarray(example[feature]).tolist())


def _checked(task: seqio.Task, split: str) -> seqio.Task:
  """Returns a task once its metrics and splits are such as can be evaluated."""
  if len(task.metric_objs) > len(task.metric_fns) or task.predict_with_aux_metric_fns:
    raise errors.ConfigError(
      "The task has metrics that cannot be computed here.",
      value=task.name,
      rule="metric_fns of (targets, predictions) or of (targets, scores)",
      remedy="give the task such functions as metric_fns",
    )
  if split not in task.splits:
    raise errors.DataError(
      "The task has no such split.",
      value=f"{task.name}, {split}",
      rule=f"one of {', '.join(map(str, task.splits))}",
    )
  return task
