# SPDX-License-Identifier: Apache-2.0
"""ROUGE, hand-computed."""

from __future__ import annotations

import pytest

from switch_t5.scores import summarization


def _f(matches, target, prediction):
  return pytest.approx(100 * 2 * matches / (target + prediction))


def test_rouge_counts_words_pairs_and_the_longest_common_subsequence():
  scores = summarization.rouge(["the cat sat on the mat"], ["the cat lay on a mat"])
  # Words the, cat, on, mat of 6 and 6; pairs (the, cat) of 5 and 5.
  assert scores == {"rouge1": _f(4, 6, 6), "rouge2": _f(1, 5, 5), "rougeLsum": _f(4, 6, 6)}


def test_sentences_end_at_a_dot_between_spaces():
  # Sentence by sentence every word is found; as one line, only one half is in order.
  targets, predictions = ["one two . three four"], ["three four . one two"]
  assert summarization.rouge(targets, predictions)["rougeLsum"] == pytest.approx(100)
  as_one = [text.replace(" . ", " ") for text in targets + predictions]
  assert summarization.rouge(as_one[:1], as_one[1:])["rougeLsum"] == pytest.approx(50)


def test_scores_are_means_over_examples():
  scores = summarization.rouge(["a b", "c d"], ["A, b!", "e"])
  assert scores == {kind: pytest.approx(50) for kind in ("rouge1", "rouge2", "rougeLsum")}


@pytest.mark.parametrize(
  ("target", "prediction"), [("a b", ""), ("", "a b"), ("", ""), ("...", "..."), ("été", "中文")]
)
def test_texts_without_a_shared_word_score_0(target, prediction):
  scores = summarization.rouge([target], [prediction])
  assert scores == {"rouge1": 0, "rouge2": 0, "rougeLsum": 0}


def test_scores_need_one_prediction_for_each_target():
  with pytest.raises(ValueError):
    summarization.rouge(["a", "b"], ["a"])
  with pytest.raises(ValueError):
    summarization.rouge([], [])
