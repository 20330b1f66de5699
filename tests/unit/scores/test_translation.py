# SPDX-License-Identifier: Apache-2.0
"""BLEU, hand-computed, and what is said where its library is missing."""

from __future__ import annotations

import logging
import math
import sys

import pytest

from switch_t5 import errors
from switch_t5.scores import summarization, translation


def _bleu(*precisions, penalty=1.0):
  return {"bleu": pytest.approx(100 * penalty * math.prod(precisions) ** (1 / 4))}


def test_bleu_is_the_geometric_mean_of_four_precisions():
  scores = translation.bleu(["the cat sat on the mat"], ["the cat sat on a mat"])
  # Words 5 of 6, pairs 3 of 5, triples 2 of 4, fours 1 of 3.
  assert scores == _bleu(5 / 6, 3 / 5, 2 / 4, 1 / 3)


def test_counts_and_lengths_add_up_over_the_corpus():
  scores = translation.bleu(["a b c d e", "f g h i"], ["a b c d", "f g h"])
  # 7 words for 9: brevity exp(1 - 9/7); all n-grams are found: 7 of 7, 5, 3, 1.
  assert scores == _bleu(1, 1, 1, 1, penalty=math.exp(1 - 9 / 7))


def test_orders_without_a_match_are_smoothed_exponentially():
  scores = translation.bleu(["a b c d e f"], ["a b x c d y"])
  # Words 4 of 6, pairs 2 of 5, then half of one in 4, and a quarter of one in 3.
  assert scores == _bleu(4 / 6, 2 / 5, 1 / 2 / 4, 1 / 4 / 3)


def test_punctuation_of_any_script_is_a_token_and_case_matters():
  assert translation.bleu(["„ Gut “ , sagt er ."], ["„Gut“, sagt er."]) == _bleu(1, 1, 1, 1)
  assert translation.bleu(["Das ist sehr gut"], ["das ist sehr gut"])["bleu"] < 70


def test_any_of_several_references_matches_and_numbers_of_references_may_differ():
  targets = [["x y z w", "a b c d"], ["e f g h"]]
  assert translation.bleu(targets, ["a b c d", "e f g h"]) == _bleu(1, 1, 1, 1)


@pytest.mark.parametrize(
  ("target", "prediction"), [("a b c d", ""), ("", "a b c d"), ("", ""), ("a b c d", "w x y z")]
)
def test_a_corpus_without_a_match_scores_0(target, prediction):
  assert translation.bleu([target], [prediction]) == {"bleu": 0.0}


def test_sentences_that_end_in_a_separate_dot_are_not_warned_of(caplog):
  with caplog.at_level(logging.WARNING):
    translation.bleu(["a b c d ."] * 200, ["a b c d ."] * 200)
  assert not caplog.records


def test_scores_need_one_prediction_and_a_reference_for_each_target():
  for targets, predictions in [(["a", "b"], ["a"]), ([], []), ([["a"], []], ["a", "b"])]:
    with pytest.raises(ValueError):
      translation.bleu(targets, predictions)


@pytest.mark.parametrize(
  ("score", "module"),
  [(translation.bleu, "sacrebleu"), (summarization.rouge, "rouge_score")],
  ids=["bleu", "rouge"],
)
def test_a_missing_library_is_an_error_that_names_the_extra(monkeypatch, score, module):
  monkeypatch.setitem(sys.modules, module, None)
  with pytest.raises(errors.ConfigError, match=r"pip install 'switch_t5\[scores\]'"):
    score(["a"], ["a"])
