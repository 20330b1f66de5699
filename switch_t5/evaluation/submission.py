# SPDX-License-Identifier: Apache-2.0
"""SuperGLUE's submission: a file of JSON lines for each task, in the form its server takes.

`BoolQ.jsonl` holds `{"idx": 0, "label": "true"}` and so on. An answer that is no label counts as the
first one of the task: the server takes nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from switch_t5.evaluation.predictions import Answer, TaskResult, write_lines
from switch_t5.storage.location import Location

_TASK = re.compile(r"super_glue_([a-z]+)_v102(?:_simple)?(?:_1_sentinel)?(?:_eval)?")
_ENTAILMENT = ("entailment", "not_entailment")
# The file of each task, and what it calls the labels, in the order of their numbers in TFDS.
_FILES: dict[str, tuple[str, Sequence[str | int]]] = {
  "boolq": ("BoolQ", ("false", "true")),
  "cb": ("CB", ("entailment", "contradiction", "neutral")),
  "copa": ("COPA", (0, 1)),
  "multirc": ("MultiRC", (0, 1)),
  "record": ("ReCoRD", ()),
  "rte": ("RTE", _ENTAILMENT),
  "wic": ("WiC", ("false", "true")),
  "wsc": ("WSC", ("False", "True")),
  "axb": ("AX-b", _ENTAILMENT),
  "axg": ("AX-g", _ENTAILMENT),
}


def write_submission(
  directory: Location, results: Mapping[str, TaskResult], name: str
) -> Location | None:
  """Writes `<directory>/submission/<name>/<file>` for each task of SuperGLUE.

  Returns:
    Their folder; None if no task is one of SuperGLUE's.
  """
  folder = directory / "submission" / name
  written = False
  for task, result in results.items():
    match = _TASK.fullmatch(task)
    if match is None or match[1] not in _FILES:
      continue
    file, _ = _FILES[match[1]]
    write_lines(folder / f"{file}.jsonl", submission_rows(match[1], result.answers))
    written = True
  return folder if written else None


def submission_rows(task: str, answers: Sequence[Answer]) -> list[dict[str, Any]]:
  """Returns the lines of a task's file.

  Args:
    task: SuperGLUE's short name, such as `boolq`.
    answers: to its examples.
  """
  label = _labeller(_FILES[task][1])
  if task == "multirc":
    return _by_paragraph(answers, label)
  if task == "record":  # an example of each right answer: of one query, the first counts
    found: dict[int, str] = {}
    for answer in answers:
      found.setdefault(int(answer.example["idx/query"]), answer.prediction["value"])
    return [{"idx": query, "label": text} for query, text in found.items()]
  return [
    {"idx": int(answer.example["idx"]), "label": label(answer.prediction)} for answer in answers
  ]


def _labeller(labels: Sequence[str | int]) -> Callable[[Any], str | int]:
  def label(number: Any) -> str | int:
    return labels[int(number) if 0 <= number < len(labels) else 0]

  return label


def _by_paragraph(
  answers: Iterable[Answer], label: Callable[[Any], str | int]
) -> list[dict[str, Any]]:
  """Returns MultiRC's lines: paragraphs, in them questions, in them answers."""
  paragraphs: dict[int, dict[int, list[dict[str, Any]]]] = {}
  for answer in answers:
    paragraph, question, number = (
      int(answer.example[f"idx/{name}"]) for name in ("paragraph", "question", "answer")
    )
    of_question = paragraphs.setdefault(paragraph, {}).setdefault(question, [])
    of_question.append({"idx": number, "label": label(answer.prediction["value"])})
  return [
    {
      "idx": paragraph,
      "passage": {
        "questions": [{"idx": question, "answers": found} for question, found in questions.items()]
      },
    }
    for paragraph, questions in paragraphs.items()
  ]
