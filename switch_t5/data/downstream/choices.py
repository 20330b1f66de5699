# SPDX-License-Identifier: Apache-2.0
"""WinoGrande and ARC: a choice among answers. T5 has no format for them; these are ours.

`winogrande option1: A option2: B sentence: S`, where S has a `_` -> `option1` or `option2`: the form of
COPA in T5. The largest train set (xl) is trained on.
`arc question: Q choices: (A) x (B) y (C) z (D) w` -> `B`; a few questions have three or five choices, and
choices that are numbered get letters, as in TFDS. The easy and the challenge set have one format.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from switch_t5.data.downstream import formats
from switch_t5.data.downstream.datasets import Dataset, Example, jsonl
from switch_t5.data.downstream.task import DownstreamTask, Family
from switch_t5.scores import labels

if TYPE_CHECKING:
  import tensorflow as tf

_OPTIONS = ("option1", "option2")
_LETTERS = ("A", "B", "C", "D", "E")
_LETTER_OF_NUMBER = dict(zip("12345", _LETTERS, strict=True))


def arc(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """Makes inputs and targets of a question and its choices."""
  import tensorflow as tf

  letters = tf.constant(_LETTERS)

  def format_(example: Mapping[str, Any]) -> dict[str, Any]:
    choices = example["choices"]
    listed = "(" + tf.gather(letters, choices["label"]) + ") " + choices["text"]
    words = [
      "arc question:",
      example["question"],
      "choices:",
      tf.strings.reduce_join(listed, separator=" "),
    ]
    return {
      "inputs": tf.strings.join(words, separator=" "),
      "targets": letters[example["answerKey"]],
    }

  return dataset.map(format_)


def _winogrande(row: Mapping[str, Any]) -> Iterator[Example]:
  yield {**row, "label": row.get("answer") or None}  # empty in some copies of the test split


WINOGRANDE = Dataset(
  "winogrande:1.2.0",
  "winogrande_1.1",
  {"train_xl": "train_xl.jsonl", "validation": "dev.jsonl", "test": "test.jsonl"},
  {**dict.fromkeys(("sentence", *_OPTIONS), "string"), "label": ("1", "2")},
  jsonl(_winogrande),
)


def _arc(row: Mapping[str, Any]) -> Iterator[Example]:
  choices = row["question"]["choices"]
  names = [_LETTER_OF_NUMBER.get(choice["label"], choice["label"]) for choice in choices]
  key = _LETTER_OF_NUMBER.get(row["answerKey"], row["answerKey"])
  unknown = [name for name in names if name not in _LETTERS]
  if unknown or key not in names:
    raise ValueError(f"the choices are {', '.join(map(repr, names))}, and the answer is {key!r}")
  yield {
    "id": row["id"],
    "question": row["question"]["stem"],
    "choices": {
      "text": [choice["text"] for choice in choices],
      "label": [_LETTERS.index(name) for name in names],
    },
    "answerKey": key,
  }


def _arc_dataset(name: str) -> Dataset:
  return Dataset(
    f"ai2_arc/{name}:1.0.0",
    f"ARC-V1-Feb2018-2/{name}",
    {
      "train": f"{name}-Train.jsonl",
      "validation": f"{name}-Dev.jsonl",
      "test": f"{name}-Test.jsonl",
    },
    {
      **dict.fromkeys(("id", "question"), "string"),
      "choices": {"text": "string[]", "label": "int64[]"},
      "answerKey": _LETTERS,
    },
    jsonl(_arc),
  )


ARC_EASY = _arc_dataset("ARC-Easy")
ARC_CHALLENGE = _arc_dataset("ARC-Challenge")


_WINOGRANDE = functools.partial(
  formats.labelled,
  benchmark="winogrande",
  labels=_OPTIONS,
  texts={key: key for key in (*_OPTIONS, "sentence")},
)


def _task(name, dataset, step, answers, splits=None) -> DownstreamTask:
  postprocess = functools.partial(labels.label_number, labels=answers)
  return DownstreamTask(name, dataset, (step,), postprocess, (labels.accuracy,), splits)


FAMILY = Family(
  tasks=(
    _task(
      *("winogrande_v001", WINOGRANDE, _WINOGRANDE, _OPTIONS),
      {"train": "train_xl", "validation": "validation", "test": "test"},
    ),
    _task("arc_easy_v001", ARC_EASY, arc, _LETTERS),
    _task("arc_challenge_v001", ARC_CHALLENGE, arc, _LETTERS),
  )
)
