# SPDX-License-Identifier: Apache-2.0
"""How answers are made of the model's probabilities."""

from __future__ import annotations

import dataclasses
import math

from switch_t5.errors import ConfigError

BEAM_SCORES = ("t5x", "huggingface")


@dataclasses.dataclass(frozen=True)
class DecodingConfig:
  """Greedy search as it stands; sampling with a `temperature`, beam search with `num_beams`.

  Attributes:
    max_tokens: of an answer, its EOS included.
    num_beams: hypotheses of beam search; 1: none.
    length_penalty: alpha: the score of an answer of n tokens is its log-probability over a penalty
      that grows with alpha; 0: none.
    beam_scores: the penalty and when a search is over. "t5x": ((5 + n) / 6)^alpha (Wu et al., 2016,
      eq. 14), until no running hypothesis can get better than what is finished; "huggingface":
      n^alpha, until none would if it ended now, which is `early_stopping=False` there.
    temperature: of sampling, which divides the logits; 0: the likeliest token is taken.
    top_k: only the k likeliest tokens are drawn; 0: all.
    top_p: only the likeliest tokens that together have this probability are drawn; 1: all.
    num_return: answers to each text: samples, or the best hypotheses of beam search.
    seed: of sampling; a text's draws follow from it and the text's number, not from its batch.
  """

  max_tokens: int = 64
  num_beams: int = 1
  length_penalty: float = 0.6
  beam_scores: str = "t5x"
  temperature: float = 0.0
  top_k: int = 0
  top_p: float = 1.0
  num_return: int = 1
  seed: int = 0

  def __post_init__(self):
    for name, least in (("max_tokens", 1), ("num_beams", 1), ("top_k", 0), ("num_return", 1)):
      self._check(_is_whole(getattr(self, name), least), name, f"a whole number, at least {least}")
    self._check(_is_whole(self.seed, 0) and self.seed < 2**32, "seed", "0 to 2**32 - 1")
    self._check(_is_number(self.length_penalty), "length_penalty", "a finite number")
    self._check(
      _is_number(self.temperature) and self.temperature >= 0, "temperature", "a number, at least 0"
    )
    self._check(
      _is_number(self.top_p) and 0 < self.top_p <= 1, "top_p", "a number above 0, at most 1"
    )
    self._check(
      self.beam_scores in BEAM_SCORES, "beam_scores", f"one of {', '.join(map(repr, BEAM_SCORES))}"
    )
    if not self.temperature:
      rule = "left out, or used with a temperature above 0: it is of sampling"
      self._check(self.top_k == 0, "top_k", rule)
      self._check(self.top_p == 1, "top_p", rule)
    else:
      rule = "1 where temperature is above 0: there is beam search or sampling"
      self._check(self.num_beams == 1, "num_beams", rule)
    self._check(
      self.num_return <= self.num_beams or self.temperature > 0,
      "num_return",
      f"at most num_beams ({self.num_beams}), or used with a temperature above 0",
    )

  @property
  def num_hypotheses(self) -> int:
    """Sequences that are decoded for each text."""
    return max(self.num_beams, self.num_return)

  def _check(self, holds: bool, name: str, rule: str) -> None:
    if not holds:
      raise ConfigError(
        f"DecodingConfig.{name} is not valid.",
        value=repr(getattr(self, name)),
        rule=f"{name} is {rule}",
      )


def _is_whole(value: object, least: int) -> bool:
  return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: object) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
