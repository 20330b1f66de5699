# SPDX-License-Identifier: Apache-2.0
"""SQuAD 1.1: answers out of a paragraph, with T5's name and format.

`question: Q context: C` -> the first answer. Each character other than an ASCII letter, digit or `_`
stands between spaces in all of the texts, as T5 has it (`François` is `Fran ç ois`); the scores'
normaliser undoes it for punctuation only, on both sides alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from switch_t5.data.downstream import json_files
from switch_t5.data.downstream.datasets import Dataset, Example
from switch_t5.data.downstream.task import DownstreamTask, Family
from switch_t5.scores import qa

if TYPE_CHECKING:
  import tensorflow as tf


def squad(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """Makes inputs, targets and all `answers` of a question with its context."""
  import tensorflow as tf

  def padded(text: tf.Tensor) -> tf.Tensor:
    return tf.strings.regex_replace(tf.strings.regex_replace(text, r"(\W)", r" \1 "), r"\s+", " ")

  def format_(example: Mapping[str, Any]) -> dict[str, Any]:
    answers = padded(example["answers"]["text"])
    words = ["question:", padded(example["question"]), "context:", padded(example["context"])]
    inputs = tf.strings.regex_replace(tf.strings.join(words, separator=" "), r"\s+", " ")
    return {"inputs": inputs, "targets": answers[0], "answers": answers, "id": example["id"]}

  return dataset.map(format_)


def _questions(document: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
  for a, article in enumerate(document["data"]):
    for p, paragraph in enumerate(article["paragraphs"]):
      shared = {"title": article.get("title", ""), "context": paragraph["context"]}
      for q, question in enumerate(paragraph["qas"]):
        yield f"data[{a}].paragraphs[{p}].qas[{q}]", {**shared, **question}


def _example(row: Mapping[str, Any]) -> Iterator[Example]:
  answers = row["answers"]
  if not answers:
    raise ValueError("no answer")
  yield {
    **{key: row[key] for key in ("id", "title", "context", "question")},
    "answers": {key: [answer[key] for answer in answers] for key in ("text", "answer_start")},
  }


SQUAD = Dataset(
  "squad/v1.1:3.0.0",
  "squad",
  {"train": "train-v1.1.json", "validation": "dev-v1.1.json"},
  {
    **dict.fromkeys(("id", "title", "context", "question"), "string"),
    "answers": {"text": "string[]", "answer_start": "int32[]"},
  },
  json_files.document(_questions, _example),
)

FAMILY = Family(
  tasks=(DownstreamTask("squad_v010_allanswers", SQUAD, (squad,), qa.answers, (qa.squad,)),)
)
