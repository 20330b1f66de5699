# SPDX-License-Identifier: Apache-2.0
"""Exact match and F1 of short answers, as the scripts published with SQuAD and TriviaQA have them.

An answer and its references are normalised, compared as strings (`em`) and as bags of words (`f1`),
and the best reference counts. What follows from the published arithmetic: texts of which nothing is
left (an empty one, `the`) match each other exactly, and their F1 is 0; only ASCII punctuation is
dropped (by TriviaQA also `‘’´`), so `“Paris”` is not `Paris` by SQuAD's rule.
"""

from __future__ import annotations

import collections
import re
import statistics
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_SQUAD_PUNCTUATION = str.maketrans("", "", string.punctuation)
_TRIVIA_QA_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation + "‘’´", " "))


def answers(
  text: str, example: Mapping[str, Any] | None = None, is_target: bool = False
) -> str | list[str]:
  """Returns a prediction as it is, and for a target every answer of its example (T5's `qa`).

  Args:
    text: what was decoded.
    example: of the task; its `answers` are UTF-8.
    is_target: whether the text is the target of the example.
  """
  if not is_target or example is None:
    return text
  return [bytes(answer).decode("utf-8", errors="replace") for answer in example["answers"]]


def normalize_squad(answer: str) -> str:
  """Returns an answer in lower case, without punctuation, articles and more than one space."""
  return _without_articles(answer.lower().translate(_SQUAD_PUNCTUATION))


def normalize_trivia_qa(answer: str) -> str:
  """Returns an answer as `normalize_squad`, except that a space takes the place of punctuation."""
  return _without_articles(answer.lower().translate(_TRIVIA_QA_PUNCTUATION))


def _without_articles(text: str) -> str:
  return " ".join(_ARTICLES.sub(" ", text).split())


def squad(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
  """Returns SQuAD's `em` and `f1`, means over the questions, times 100.

  Args:
    targets: the references of each question; a question that has none counts as wrong.
    predictions: one for each question.

  Raises:
    ValueError: there are no questions, or not one prediction for each.
  """
  return _scores(targets, predictions, normalize_squad)


def trivia_qa(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
  """Returns `em` and `f1` as `squad` does, with TriviaQA's normaliser."""
  return _scores(targets, predictions, normalize_trivia_qa)


def _scores(
  targets: Sequence[Sequence[str]], predictions: Sequence[str], normalize: Callable[[str], str]
) -> dict[str, float]:
  exact, f1 = [], []
  for references, prediction in zip(targets, predictions, strict=True):
    answer = normalize(prediction)
    normalized = [normalize(reference) for reference in references]
    exact.append(float(answer in normalized))
    f1.append(max((_f1(reference, answer) for reference in normalized), default=0.0))
  return {"em": 100 * statistics.fmean(exact), "f1": 100 * statistics.fmean(f1)}


def _f1(reference: str, answer: str) -> float:
  """Returns the F1 of two bags of words, which is 0 where they share none."""
  reference_words, answer_words = reference.split(), answer.split()
  shared = collections.Counter(reference_words) & collections.Counter(answer_words)
  if not shared:
    return 0.0
  return 2 * shared.total() / (len(reference_words) + len(answer_words))
