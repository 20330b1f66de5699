# SPDX-License-Identifier: Apache-2.0
"""SQuAD's and TriviaQA's scores: hand-computed, and the edges of the published definitions."""

from __future__ import annotations

import numpy as np
import pytest

from switch_t5.scores import qa


def test_the_best_reference_counts_for_each_score_by_itself():
  # Bags {new, york, city}: against {new, york} P = 2/3, R = 1; against {york, city, state} 2/3 each.
  scores = qa.squad([["New York", "York City State"]], ["the New York City!"])
  assert scores == pytest.approx({"em": 0.0, "f1": 100 * 2 * (2 / 3) / (2 / 3 + 1)})


def test_scores_are_means_over_questions():
  targets = [["Denver Broncos", "Broncos"], ["1066"], ["nine men"]]
  scores = qa.squad(targets, ["the Broncos", "in 1067", "nine tall men"])
  # F1: 1; 0; P = 2/3, R = 1 -> 0.8.
  assert scores == pytest.approx({"em": 100 / 3, "f1": 100 * 1.8 / 3})


def test_words_count_as_often_as_both_sides_have_them():
  # Shared: {go: 2}; P = 2/3, R = 2/4.
  assert qa.squad([["go go on up"]], ["go go go"])["f1"] == pytest.approx(100 * 2 * 2 / (3 + 4))


@pytest.mark.parametrize(
  ("text", "squad", "trivia_qa"),
  [
    ("The  Cat's\tMeow.", "cats meow", "cat s meow"),
    ("a an the", "", ""),
    ("theatre than A-ha", "theatre than aha", "theatre than ha"),
    ("snake_case_a", "snakecasea", "snake case"),
    ("‘Paris’", "‘paris’", "paris"),
    ("“Paris”", "“paris”", "“paris”"),
    ("Straße, ÉCOLE", "straße école", "straße école"),
    ("...", "", ""),
  ],
)
def test_normalisers_follow_the_published_scripts(text, squad, trivia_qa):
  assert qa.normalize_squad(text) == squad
  assert qa.normalize_trivia_qa(text) == trivia_qa


@pytest.mark.parametrize("score", [qa.squad, qa.trivia_qa])
@pytest.mark.parametrize(
  ("references", "prediction", "em", "f1"),
  [
    (["Paris"], "", 0, 0),
    ([""], "Paris", 0, 0),
    ([""], "", 100, 0),  # the scripts' arithmetic: equal texts, no shared words
    (["the"], "an", 100, 0),
    (["a", "b"], "B", 100, 100),
    (["b c"], "d e", 0, 0),
    ([], "Paris", 0, 0),  # a question that nobody has answered
  ],
)
def test_edges(score, references, prediction, em, f1):
  assert score([references], [prediction]) == {"em": em, "f1": f1}


@pytest.mark.parametrize("score", [qa.squad, qa.trivia_qa])
def test_scores_need_one_prediction_for_each_question(score):
  with pytest.raises(ValueError):
    score([["a"], ["b"]], ["a"])
  with pytest.raises(ValueError):
    score([], [])


def test_a_target_becomes_all_answers_and_a_prediction_stays():
  example = {"answers": np.array(["Zürich".encode(), b"Zurich"], object)}
  assert qa.answers("Zürich", example=example, is_target=True) == ["Zürich", "Zurich"]
  assert qa.answers("Genf", example=example, is_target=False) == "Genf"
  assert qa.answers("Genf") == "Genf"
