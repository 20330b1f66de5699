# SPDX-License-Identifier: Apache-2.0
"""ROUGE of summaries, by the library `rouge-score`, with T5's settings."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from switch_t5.scores import extra

_KINDS = ("rouge1", "rouge2", "rougeLsum")


def rouge(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
  """Returns `rouge1`, `rouge2` and `rougeLsum`: means of the F-measure over examples, times 100.

  As in T5, words are not stemmed, and ` . ` ends a sentence (a line, for `rougeLsum`). T5 gives the
  median of means of 1000 random resamples of the examples; the mean is what that estimates, and is
  the same each time. Letters and digits other than ASCII's are no part of a word, by the library's
  definition: what has none of these scores 0.

  Args:
    targets: one reference for each prediction.
    predictions: summaries.

  Raises:
    ConfigError: the extra `scores` is not installed.
    ValueError: there are no examples, or not one prediction for each.
  """
  with extra.needed("rouge-score"):
    from rouge_score import rouge_scorer

  scorer = rouge_scorer.RougeScorer(_KINDS)
  scores = [
    scorer.score(target=_lines(target), prediction=_lines(prediction))
    for target, prediction in zip(targets, predictions, strict=True)
  ]
  return {kind: 100 * statistics.fmean(score[kind].fmeasure for score in scores) for kind in _KINDS}


def _lines(summary: str) -> str:
  return summary.replace(" . ", " .\n")
