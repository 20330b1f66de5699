# SPDX-License-Identifier: Apache-2.0
"""SuperGLUE's own scores: MultiRC's groups, ReCoRD's many answers, WSC's referents, the average."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from switch_t5.scores import labels, qa

FALSE_TRUE = ("False", "True")
# The scores that the leaderboard averages, first over a task and then over the eight tasks.
LEADERBOARD = {
  "boolq": ("accuracy",),
  "cb": ("mean_3class_f1", "accuracy"),
  "copa": ("accuracy",),
  "multirc": ("f1", "exact_match"),
  "record": ("f1", "em"),
  "rte": ("accuracy",),
  "wic": ("accuracy",),
  "wsc": ("accuracy",),
}
_TASK = re.compile(r"super_glue_([a-z]+)_v102(?:_simple)?(_1_sentinel)?(?:_eval)?")
# Words that are no part of a referent.
_DETERMINERS = frozenset({
  "a", "an", "few", "her", "his", "each", "every", "many", "much", "my", "our", "some", "that",
  "the", "their", "these", "this", "those", "which", "whose", "your",
})  # fmt: skip

Metric = Callable[..., dict[str, float]]


def multirc(
  text: str, example: Mapping[str, Any] | None = None, is_target: bool = False
) -> dict[str, Any]:
  """Returns an answer's label as `value`, and for a target its paragraph and question as `group`."""
  found: dict[str, Any] = {"value": labels.label_number(text, labels=FALSE_TRUE)}
  if is_target and example is not None:
    found["group"] = (int(example["idx/paragraph"]), int(example["idx/question"]))
  return found


def multirc_f1_over_all_answers(
  targets: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
  """Returns `f1` of the label True over the answers to all questions."""
  return labels.f1_with_invalid([t["value"] for t in targets], [p["value"] for p in predictions])


def exact_match(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
  """Returns `exact_match`: 100 if all predictions equal their targets, else 0."""
  return {"exact_match": 100 * float(list(targets) == list(predictions))}


def mean_group_metric(metric: Metric) -> Metric:
  """Returns a metric that is the mean over groups: each counts the same, whatever its size.

  Args:
    metric: of a group's values.
  """

  def over_groups(
    targets: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]]
  ) -> dict[str, float]:
    groups: dict[Any, tuple[list[Any], list[Any]]] = {}
    for target, prediction in zip(targets, predictions, strict=True):
      true, guessed = groups.setdefault(target["group"], ([], []))
      true.append(target["value"])
      guessed.append(prediction["value"])
    scores = [metric(true, guessed) for true, guessed in groups.values()]
    return {name: float(np.mean([score[name] for score in scores])) for name in scores[0]}

  return over_groups


def record(
  text: str, example: Mapping[str, Any] | None = None, is_target: bool = False
) -> dict[str, Any]:
  """Returns an answer as `value`; for a target all answers, and passage and query as `group`."""
  if not is_target or example is None:
    return {"value": text}
  answers = [bytes(answer).decode("utf-8", errors="replace") for answer in example["answers"]]
  return {
    "value": answers,
    "group": (int(example["idx/passage"]), int(example["idx/query"])),
  }


def record_squad(
  targets: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
  """Returns SQuAD's `em` and `f1` over queries: of examples of one query, the first one counts."""
  first: dict[Any, tuple[Any, Any]] = {}
  for target, prediction in zip(targets, predictions, strict=True):
    first.setdefault(target["group"], (target["value"], prediction["value"]))
  return qa.squad([target for target, _ in first.values()], [guess for _, guess in first.values()])


def wsc_simple(text: str, example: Mapping[str, Any] | None = None, is_target: bool = False) -> int:
  """Returns whether a text names the example's referent, 0 or 1; for a target, its label.

  Case and determiners do not count, and one of them may have words that the other has not; but
  `Bob` is not `Bob's hat`. A text of which nothing is left is `labels.INVALID`.
  """
  if example is None:
    return labels.INVALID
  if is_target:
    return int(example["label"])
  answer = _without_determiners(text)
  if not answer:
    return labels.INVALID
  written = bytes(example["targets_pretokenized"]).decode("utf-8", errors="replace")
  referent = _without_determiners(written)
  if ("'" in answer) != ("'" in referent):
    return 0
  words, expected = set(answer.split(" ")), set(referent.split(" "))
  return int(words <= expected or expected <= words)


def _without_determiners(text: str) -> str:
  words = text.strip().lower().split(" ")
  return " ".join(word for word in words if word not in _DETERMINERS)


def superglue_average(metrics: Mapping[str, Mapping[str, float]]) -> float | None:
  """Returns the leaderboard's average of the eight tasks, or None if one of them has no score.

  Args:
    metrics: of each task, by T5's names of tasks; others are not looked at.
  """
  scores: dict[tuple[str, str], float] = {}
  for name, values in metrics.items():
    match = _TASK.fullmatch(name)
    wanted = LEADERBOARD.get(match[1], ()) if match else ()
    if match and wanted and set(wanted) <= set(values):
      scores[match[2] or "", match[1]] = statistics.fmean(values[metric] for metric in wanted)
  for variant in ("", "_1_sentinel"):
    if all((variant, task) in scores for task in LEADERBOARD):
      return statistics.fmean(scores[variant, task] for task in LEADERBOARD)
  return None
