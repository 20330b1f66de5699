# SPDX-License-Identifier: Apache-2.0
"""SuperGLUE's submission files, line by line as its server takes them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from switch_t5.evaluation.predictions import Answer, TaskResult
from switch_t5.evaluation.submission import submission_rows, write_submission


def answer(prediction, **example):
  example = {name.replace("__", "/"): np.int32(value) for name, value in example.items()}
  return Answer(example, "", "", "", None, prediction)


@pytest.mark.parametrize(
  ("task", "labels"),
  [
    ("boolq", ["false", "true", "false"]),
    ("wic", ["false", "true", "false"]),
    ("wsc", ["False", "True", "False"]),
    ("copa", [0, 1, 0]),
    ("rte", ["entailment", "not_entailment", "entailment"]),
    ("axb", ["entailment", "not_entailment", "entailment"]),
    ("axg", ["entailment", "not_entailment", "entailment"]),
    ("cb", ["entailment", "contradiction", "entailment"]),
  ],
)
def test_a_label_has_the_servers_name_and_no_label_is_the_first(task, labels):
  answers = [answer(number, idx=5 + n) for n, number in enumerate((0, 1, -1))]
  assert submission_rows(task, answers) == [
    {"idx": 5 + n, "label": label} for n, label in enumerate(labels)
  ]


def test_answers_of_multirc_are_in_their_questions_and_paragraphs():
  places = [(4, 7, 0, 1), (4, 7, 1, -1), (4, 8, 2, 0), (5, 9, 3, 1)]
  answers = [
    answer({"value": label}, idx__paragraph=p, idx__question=q, idx__answer=a)
    for p, q, a, label in places
  ]
  assert submission_rows("multirc", answers) == [
    {
      "idx": 4,
      "passage": {
        "questions": [
          {"idx": 7, "answers": [{"idx": 0, "label": 1}, {"idx": 1, "label": 0}]},
          {"idx": 8, "answers": [{"idx": 2, "label": 0}]},
        ]
      },
    },
    {"idx": 5, "passage": {"questions": [{"idx": 9, "answers": [{"idx": 3, "label": 1}]}]}},
  ]


def test_a_query_of_record_has_one_answer():
  answers = [
    answer({"value": text}, idx__passage=0, idx__query=query)
    for query, text in ((3, "Ada"), (3, "Ada"), (4, "Zoë"))
  ]
  assert submission_rows("record", answers) == [
    {"idx": 3, "label": "Ada"},
    {"idx": 4, "label": "Zoë"},
  ]


def test_only_tasks_of_superglue_are_submitted(tmp_path):
  boolq = TaskResult({}, [answer(1, idx=0)])
  assert write_submission(tmp_path, {"other": boolq}, "step_3") is None
  results = {
    "super_glue_boolq_v102": boolq,
    "super_glue_wsc_v102_simple_eval": boolq,
    "other": boolq,
  }
  folder = write_submission(tmp_path, results, "step_3")
  assert sorted(path.name for path in folder.iterdir()) == ["BoolQ.jsonl", "WSC.jsonl"]
  assert json.loads((folder / "BoolQ.jsonl").read_text()) == {"idx": 0, "label": "true"}
