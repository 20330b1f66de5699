# SPDX-License-Identifier: Apache-2.0
"""Whatever a model answers, every metric of every downstream task is a number in its range."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest

from switch_t5.data.downstream import registry

RUBBISH = {
  "empty": "",
  "spaces": " \t\n ",
  "sentinels": "<extra_id_0> <extra_id_1><extra_id_99>",
  "one long word": "x" * 10_000,
  "many words": "a b " * 2_500,
  "punctuation": "...!?--''\"",
  "other punctuation": "“„’—¿…",
  "digits": "0123456789" * 40,
  "an infinite number": "1e999",
  "no number": "nan",
  "a negative number": "-7.5",
  "none": "None",
  "null": "null",
  "unknown": "<unk>",
  "articles": "the a an",
  "other letters": "日本語 \u200b🙂 \u0000",
}
# What an example of any task has, as far as postprocessors read it.
EXAMPLE = {
  "answers": np.array([b"Paris", b"the", "São Paulo".encode()], object),
  "label": 1,
  "targets_pretokenized": b"the old dog",
  **{f"idx/{key}": 0 for key in ("paragraph", "question", "answer", "passage", "query")},
}
TARGETS = ("the old dog . It's here", "Paris", "3.4", "True")
SIGNED = {"matthews_corrcoef", "pearson_corrcoef", "spearman_corrcoef"}  # -100 to 100

TASKS = [name for name in registry.names() if name in registry.mixture_tasks(name)]
SCORED = [name for name in TASKS if registry.get_task(name).metrics]


def _as_it_is(text, example=None, is_target=False):
  del example, is_target
  return text


def _scores(task, answers):
  """Returns the scores of one answer for each of some targets that the task may have."""
  after = task.postprocess or _as_it_is
  texts = [*getattr(after, "keywords", {}).get("labels", ()), *TARGETS]
  targets = [after(text, example=EXAMPLE, is_target=True) for text in texts]
  answers = [answers[n % len(answers)] for n in range(len(texts))]
  predictions = [after(text, example=EXAMPLE, is_target=False) for text in answers]
  return {
    name: score for metric in task.metrics for name, score in metric(targets, predictions).items()
  }


@pytest.mark.parametrize("name", SCORED)
def test_rubbish_gets_a_score_in_range(name, caplog):
  task = registry.get_task(name)
  with caplog.at_level(logging.WARNING):
    for answers in ([text] for text in RUBBISH.values()):
      scores = _scores(task, answers)
      assert scores
      for metric, score in scores.items():
        assert math.isfinite(score), (metric, answers[0][:20])
        assert (-100 if metric in SIGNED else 0) <= score <= 100, (metric, answers[0][:20])
    assert _scores(task, list(RUBBISH.values()))
  assert not caplog.records


def test_the_tasks_of_the_paper_are_scored():
  assert {
    *("squad_v010_allanswers", "cnn_dailymail_v002", "xsum_v001", "winogrande_v001"),
    *("arc_easy_v001", "arc_challenge_v001", "anli_r3_v001", "wmt_t2t_ende_v003"),
    *("natural_questions_open", "web_questions_open", "trivia_qa_open"),
  } <= set(SCORED)
