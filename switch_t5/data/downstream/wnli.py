# SPDX-License-Identifier: Apache-2.0
"""WNLI's pairs of sentences as WSC's: which pronoun of the premise is meant, and what for it.

The hypothesis is the premise, or a piece of it, with a referent in the place of a pronoun. That pronoun
is found by the words around it which both have, and the referent is what the hypothesis has there:
T5's heuristic, which makes sense of the development and test sets and is for evaluation alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_PRONOUNS = frozenset({"he", "she", "they", "it", "her", "his", "their", "them", "him"})
_ARTICLES = ("a", "an", "the")
_MARKS = ".,?!"


def as_wsc(premise: str, hypothesis: str) -> tuple[str, str]:
  """Returns the premise with its pronoun as `*pronoun*`, and the referent.

  Where no pronoun is found, the premise is as it was and the referent is the whole hypothesis.
  """
  words, claim = _words(premise), _words(hypothesis)
  pronouns = [place for place, word in enumerate(words) if word in _PRONOUNS]
  if not pronouns:
    return premise, hypothesis.strip()
  shared = {place: _shared(words, place, claim) for place in pronouns}
  place = max(pronouns, key=lambda place: sum(map(len, shared[place])))
  referent = _referent(*shared[place], " ".join(claim))
  return _marked(premise, place), _as_written(referent, hypothesis)


def _words(text: str) -> list[str]:
  """Returns the words in lower case, without a mark at their end."""
  words = (
    word[:-1] if word[-1:] in tuple(_MARKS) else word for word in text.lower().strip().split(" ")
  )
  return [word for word in words if word]


def _shared(
  words: Sequence[str], place: int, claim: Sequence[str]
) -> tuple[Sequence[str], Sequence[str]]:
  """Returns the words just before and just after a place that are in the claim as they stand."""
  before = _opening(words[:place][::-1], " ".join(claim[::-1]))
  return before[::-1], _opening(words[place + 1 :], " ".join(claim))


def _opening(words: Sequence[str], text: str) -> Sequence[str]:
  """Returns the most first words that are in a text in one piece."""
  length = 0
  while length < len(words) and " ".join(words[: length + 1]) in text:
    length += 1
  return words[:length]


def _referent(before: Sequence[str], after: Sequence[str], claim: str) -> str:
  """Returns what the claim has between the shared words; at one of its ends, if only there."""
  if not before and not after:
    return claim
  left, right = ([re.escape(word) for word in words] for words in (before, after))
  for pattern in ([*left, "(.+)", *right], ["^(.+)", *right], [*left, "(.+)$"]):
    if match := re.search(" ".join(pattern), claim):
      words = match[1].split(" ")
      # It may begin too early: what comes before its last article is left out.
      start = max((words.index(article) for article in _ARTICLES if article in words), default=0)
      return " ".join(words[start:])
  return claim


def _as_written(referent: str, hypothesis: str) -> str:
  """Returns a referent as the hypothesis writes it, without a mark or possessive at its end."""
  pattern = " ".join(f"{re.escape(word)}[{_MARKS}]?" for word in referent.split(" "))
  match = re.search(pattern, hypothesis, re.IGNORECASE)
  text = match[0] if match else referent
  text = text[:-1] if text[-1:] in tuple(_MARKS) else text
  return text[:-1] if text.endswith("'") else text.removesuffix("'s")


def _marked(premise: str, place: int) -> str:
  words = premise.split(" ")
  word = words[place]
  words[place] = f"*{word[:-1]}* {word[-1]}" if word[-1] in _MARKS else f"*{word}*"
  return " ".join(words)
