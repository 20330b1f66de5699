# SPDX-License-Identifier: Apache-2.0
"""BLEU of translations, by the library `sacrebleu`, with T5's settings."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from switch_t5.scores import extra


def bleu(
  targets: Sequence[str] | Sequence[Sequence[str]], predictions: Sequence[str]
) -> dict[str, float]:
  """Returns `bleu` of the corpus, 0 to 100: mixed case, `intl` tokens, exponential smoothing.

  No order of n-grams is left out where there are no matches (sacrebleu's signature:
  `case:mixed|eff:no|tok:intl|smooth:exp`), so a corpus of sentences of fewer than four tokens has 0.

  Args:
    targets: the reference of each prediction, or its references, at least one each.
    predictions: translations.

  Raises:
    ConfigError: the extra `scores` is not installed.
    ValueError: there are no examples, or not one prediction for each, or no reference for one.
  """
  with extra.needed("sacrebleu"):
    import sacrebleu

  references = [[target] if isinstance(target, str) else list(target) for target in targets]
  if not references or len(references) != len(predictions) or not all(references):
    raise ValueError("each prediction needs a reference, and there is one at least")
  score = sacrebleu.corpus_bleu(
    predictions,
    # The first references of all, then the second ones: None where there is no such one.
    list(itertools.zip_longest(*references)),
    smooth_method="exp",
    tokenize="intl",
    force=True,  # or it logs a warning where many sentences end in ` .`; scores are the same
  )
  return {"bleu": float(score.score)}
