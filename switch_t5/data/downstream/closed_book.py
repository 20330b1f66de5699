# SPDX-License-Identifier: Apache-2.0
"""Questions without a context: Natural Questions, WebQuestions and TriviaQA, as Roberts et al. (2020)
ask them of T5, with the names of their tasks.

`nq question: Q`, `wq question: Q` or `trivia_qa question: Q` -> the first answer (TriviaQA: its value).
A task holds out about a tenth of the train split; the one named `_test` trains on all there is and is
scored on what the leaderboards use. The parts are those of TFDS's order where TFDS has the data, and
of the file's order where it is read: other questions, as many.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from switch_t5.data.downstream import json_files
from switch_t5.data.downstream.datasets import Dataset, Example, jsonl
from switch_t5.data.downstream.task import DownstreamTask, Family
from switch_t5.scores import qa

if TYPE_CHECKING:
  import tensorflow as tf


def closed_book(dataset: tf.data.Dataset, prefix: str, answers: str) -> tf.data.Dataset:
  """Makes inputs, targets and all `answers` of a question.

  Args:
    dataset: of examples with `question`.
    prefix: of the inputs.
    answers: the feature that lists the answers, of which the first is the target.
  """

  def format_(example: Mapping[str, Any]) -> dict[str, Any]:
    return {
      "inputs": prefix + example["question"],
      "targets": example[answers][0],
      "answers": example[answers],
    }

  return dataset.map(format_)


def trivia_qa(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """Makes inputs, targets and all `answers`, the aliases, of a question of TriviaQA."""

  def format_(example: Mapping[str, Any]) -> dict[str, Any]:
    return {
      "inputs": "trivia_qa question: " + example["question"],
      "targets": example["answer"]["value"],
      "answers": example["answer"]["aliases"],
    }

  return dataset.map(format_)


def _nq_open(row: Mapping[str, Any]) -> Iterator[Example]:
  if not row["answer"]:
    raise ValueError("no answer")
  yield {"question": row["question"], "answer": row["answer"]}


NATURAL_QUESTIONS = Dataset(
  "natural_questions_open:1.0.0",
  "nq_open",
  {"train": "NQ-open.train.jsonl", "validation": "NQ-open.dev.jsonl"},
  {"question": "string", "answer": "string[]"},
  jsonl(_nq_open),
)


def _web_question(row: Mapping[str, Any]) -> Iterator[Example]:
  """Yields the example of a question, whose answers are a list in Lisp's notation.

  `(list (description Jazmyn) (description "Jaxon Bieber"))`.
  """
  listed = re.sub(r"^\(list |\)$", "", row["targetValue"])
  found = re.findall(r'\(description (?:"([^"]+?)"|([^)]+?))\)\w*', listed)
  if not found:
    raise ValueError("no answer in targetValue")
  answers = [quoted or plain for quoted, plain in found]
  yield {"url": row["url"], "question": row["utterance"], "answers": answers}


WEB_QUESTIONS = Dataset(
  "web_questions:1.0.0",
  "webquestions",
  {"train": "webquestions.examples.train.json", "test": "webquestions.examples.test.json"},
  {"url": "string", "question": "string", "answers": "string[]"},
  json_files.document(
    lambda rows: ((f"[{number}]", row) for number, row in enumerate(rows)), _web_question
  ),
)

_CONTEXTS = {
  "entity_pages": dict.fromkeys(("doc_source", "filename", "title", "wiki_context"), "string[]"),
  "search_results": {
    **dict.fromkeys(("description", "filename", "search_context", "title", "url"), "string[]"),
    "rank": "int32[]",
  },
}
_ANSWER = {  # TFDS's names of what the files call so
  "matched_wiki_entity_name": "MatchedWikiEntryName",
  "normalized_matched_wiki_entity_name": "NormalizedMatchedWikiEntryName",
  "normalized_value": "NormalizedValue",
  "type": "Type",
  "value": "Value",
}
_NO_ANSWER = dict.fromkeys(_ANSWER, "<unk>") | {"type": ""}  # TFDS's, in the test split


def _trivia(row: Mapping[str, Any]) -> Iterator[Example]:
  answer: dict[str, Any] = {"Aliases": [], "NormalizedAliases": []}
  texts = _NO_ANSWER
  if "Answer" in row:
    answer = dict.fromkeys(("MatchedWikiEntryName", "NormalizedMatchedWikiEntryName"), "")
    answer |= row["Answer"]
    texts = {name: answer[key].strip() for name, key in _ANSWER.items()}
  yield {
    "question": row["Question"].strip(),
    "question_id": row["QuestionId"],
    "question_source": row["QuestionSource"].strip(),
    "answer": {
      **texts,
      "aliases": [alias.strip() for alias in answer["Aliases"]],
      "normalized_aliases": [alias.strip() for alias in answer["NormalizedAliases"]],
    },
    **{name: {key: [] for key in features} for name, features in _CONTEXTS.items()},
  }


TRIVIA_QA = Dataset(
  "trivia_qa/unfiltered.nocontext:1.1.0",
  "triviaqa-unfiltered",
  {
    "train": "unfiltered-web-train.json",
    "validation": "unfiltered-web-dev.json",
    "test": "unfiltered-web-test-without-answers.json",
  },
  {
    **dict.fromkeys(("question", "question_id", "question_source"), "string"),
    "answer": {
      **dict.fromkeys(_ANSWER, "string"),
      "aliases": "string[]",
      "normalized_aliases": "string[]",
    },
    **_CONTEXTS,
  },
  json_files.document(
    lambda document: ((f"Data[{number}]", row) for number, row in enumerate(document["Data"])),
    _trivia,
    unread=("EntityPages", "SearchResults"),
  ),
)

_NQ = functools.partial(closed_book, prefix="nq question: ", answers="answer")
_WQ = functools.partial(closed_book, prefix="wq question: ", answers="answers")


def _task(name, dataset, step, metric, **splits: str) -> DownstreamTask:
  return DownstreamTask(name, dataset, (step,), qa.answers, (metric,), splits)


FAMILY = Family(
  tasks=(
    _task(
      *("natural_questions_open", NATURAL_QUESTIONS, _NQ, qa.squad),
      train="train[:79168]",
      validation="train[79168:]",
      test="validation",
    ),
    _task(
      *("natural_questions_open_test", NATURAL_QUESTIONS, _NQ, qa.squad),
      train="train",
      validation="validation",
    ),
    _task(
      *("web_questions_open", WEB_QUESTIONS, _WQ, qa.squad),
      train="train[:3417]",
      validation="train[3417:]",
      test="test",
    ),
    _task(
      *("web_questions_open_test", WEB_QUESTIONS, _WQ, qa.squad), train="train", validation="test"
    ),
    _task(
      *("trivia_qa_open", TRIVIA_QA, trivia_qa, qa.trivia_qa),
      train="train[:78785]",
      validation="train[78785:]",
      test="validation",
    ),
    _task(
      *("trivia_qa_open_test", TRIVIA_QA, trivia_qa, qa.trivia_qa),
      train="train+validation",
      test="test",
    ),
  ),
  # T5's mixtures, by numbers of examples for training.
  mixtures={
    "closed_book_qa": {
      "trivia_qa_open": 78785,
      "natural_questions_open": 79168,
      "web_questions_open": 3417,
    },
    "closed_book_qa_test": {
      "trivia_qa_open_test": 87622 + 11313,
      "natural_questions_open_test": 87925,
      "web_questions_open_test": 3778,
    },
  },
)
