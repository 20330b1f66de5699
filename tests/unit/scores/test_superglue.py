# SPDX-License-Identifier: Apache-2.0
"""SuperGLUE's scores, by hand and against scikit-learn."""

from __future__ import annotations

import pytest
import sklearn.metrics

from switch_t5.scores import superglue

INVALID = -1


def _answers(groups_and_values):
  return [{"group": group, "value": value} for group, value in groups_and_values]


def _values(values):
  return [{"value": value} for value in values]


def test_multirc_answers_have_their_question_only_as_targets():
  example = {"idx/paragraph": 3, "idx/question": 5, "idx/answer": 0}
  assert superglue.multirc("True", example, is_target=True) == {"value": 1, "group": (3, 5)}
  assert superglue.multirc("True", example) == {"value": 1}
  assert superglue.multirc("maybe", example) == {"value": INVALID}


def test_multirc_counts_answers_for_f1_and_questions_for_exact_match():
  targets = _answers([("a", 1), ("a", 0), ("a", 0), ("b", 1), ("c", 0)])
  predictions = _values([1, 0, 1, 1, INVALID])
  exact = superglue.mean_group_metric(superglue.exact_match)
  # Question a has a wrong answer, c an invalid one; b alone is right, and it is the smallest.
  assert exact(targets, predictions) == {"exact_match": pytest.approx(100 / 3)}
  expected = sklearn.metrics.f1_score([1, 0, 0, 1, 0], [1, 0, 1, 1, 1])
  assert superglue.multirc_f1_over_all_answers(targets, predictions) == {
    "f1": pytest.approx(100 * expected)
  }


def test_groups_need_not_be_in_one_piece():
  targets = _answers([("a", 1), ("b", 1), ("a", 1), ("b", 0)])
  exact = superglue.mean_group_metric(superglue.exact_match)
  assert exact(targets, _values([1, 1, 1, 1])) == {"exact_match": 50}


def test_a_record_query_counts_once_with_all_its_answers():
  targets = _answers([("p", ["Paris", "the city"]), ("p", ["Paris", "the city"]), ("q", ["Rome"])])
  assert superglue.record_squad(targets, _values(["City!", "nothing", "Oslo"])) == {
    "em": 50,
    "f1": 50,
  }
  assert superglue.record_squad(targets[2:], _values(["Rome, Italy"])) == {
    "em": 0,
    "f1": pytest.approx(200 / 3),
  }
  assert superglue.record_squad(targets, _values(["", "", ""])) == {"em": 0, "f1": 0}


def test_a_record_query_without_answers_is_wrong():
  assert superglue.record_squad(_answers([("p", [])]), _values(["x"])) == {"em": 0, "f1": 0}


def test_record_targets_are_all_answers():
  example = {"idx/passage": 1, "idx/query": 2, "answers": [b"Ab", "é".encode()]}
  assert superglue.record("Ab", example, is_target=True) == {"value": ["Ab", "é"], "group": (1, 2)}
  assert superglue.record("Ab", example) == {"value": "Ab"}


@pytest.mark.parametrize(
  ("referent", "answer", "found"),
  [
    ("Bob", "Bob", 1),
    ("Bob", "bob", 1),
    ("the fuzzy bunny", "bunny", 1),
    ("bunny", "their fuzzy bunny", 1),
    ("bunny", "fox", 0),
    ("Bob's hat", "Bob", 0),
    ("Bob's hat", "Bob's", 1),
    ("Bob", "", INVALID),
    ("Bob", "the ", INVALID),
    ("Bob", "  ", INVALID),
    ("fuzzy bunny", "fuzzy fox", 0),
  ],
)
def test_a_referent_is_found_by_its_words(referent, answer, found):
  example = {"targets_pretokenized": referent.encode(), "label": 1}
  assert superglue.wsc_simple(answer, example) == found
  assert superglue.wsc_simple(answer, example | {"label": 0}, is_target=True) == 0


SCORES = {
  "super_glue_boolq_v102": {"accuracy": 80},
  "super_glue_cb_v102": {"mean_3class_f1": 50, "accuracy": 70},
  "super_glue_copa_v102": {"accuracy": 40},
  "super_glue_multirc_v102": {"f1": 60, "exact_match": 20},
  "super_glue_record_v102": {"em": 30, "f1": 50},
  "super_glue_rte_v102": {"accuracy": 10},
  "super_glue_wic_v102": {"accuracy": 90},
  "super_glue_wsc_v102_simple_eval": {"accuracy": 100},
}


def test_the_average_takes_tasks_with_two_scores_once():
  assert superglue.superglue_average(SCORES) == (80 + 60 + 40 + 40 + 40 + 10 + 90 + 100) / 8
  sentinel = {
    name.removesuffix("_eval") + "_1_sentinel" + "_eval" * name.endswith("_eval"): score
    for name, score in SCORES.items()
  }
  assert superglue.superglue_average(sentinel) == superglue.superglue_average(SCORES)
  others = {"super_glue_axb_v102": {"accuracy": 1}, "glue_rte_v002": {"accuracy": 1}}
  assert superglue.superglue_average(SCORES | others) == superglue.superglue_average(SCORES)


@pytest.mark.parametrize("missing", SCORES)
def test_there_is_no_average_of_fewer_tasks(missing):
  assert superglue.superglue_average({n: s for n, s in SCORES.items() if n != missing}) is None
  half = {name: score for name, score in SCORES["super_glue_cb_v102"].items() if name != "accuracy"}
  assert superglue.superglue_average(SCORES | {"super_glue_cb_v102": half}) is None
