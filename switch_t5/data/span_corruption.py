# SPDX-License-Identifier: Apache-2.0
"""Span corruption (Raffel et al., 2020, section 3.1.4), in NumPy.

A row of L tokens is cut into alternating spans, the first one kept and the last one noise. In the
inputs each noise span is replaced by one sentinel; in the targets each kept span is. Sentinels
descend from the top of the vocabulary; both sequences end with EOS, and no sentinel closes the
targets. 15% of the tokens are noise, in spans of 3 on average: both numbers of tokens are split
uniformly at random into as many non-empty parts as there are spans.

The lengths of inputs and targets follow from L alone, so rows of one length need no padding:
a window of 568 tokens gives 512 inputs and 114 targets.

Randomness: row i of a data set draws from its own Philox stream, `Philox(key=seed,
counter=[0, 0, 0, i])`. i is in the high word; a generator steps through the low one, so in the low
word neighbouring rows would share their numbers. Only raw 64-bit words are used, which NumPy never
changes between releases.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from switch_t5 import errors

NOISE_DENSITY = 0.15
MEAN_SPAN_LENGTH = 3.0
_SHORTEST_INPUTS = 3  # a kept token, a sentinel, EOS


@dataclasses.dataclass(frozen=True)
class SpanCounts:
  """What follows from the length of a row.

  Attributes:
    noise: number of noise tokens.
    kept: number of the other tokens.
    spans: number of noise spans, and of kept spans.
  """

  noise: int
  kept: int
  spans: int

  @property
  def inputs_length(self) -> int:
    """Length of the inputs: kept tokens, a sentinel per span, EOS."""
    return self.kept + self.spans + 1

  @property
  def targets_length(self) -> int:
    """Length of the targets: noise tokens, a sentinel per span, EOS."""
    return self.noise + self.spans + 1


def span_counts(tokens_length: int) -> SpanCounts:
  """Returns the numbers of tokens and spans for a row of at least 2 tokens."""
  noise = min(max(round(tokens_length * NOISE_DENSITY), 1), tokens_length - 1)
  spans = max(1, round(noise / MEAN_SPAN_LENGTH))
  return SpanCounts(noise=noise, kept=tokens_length - noise, spans=spans)


def window_for_inputs(inputs_length: int) -> int:
  """Returns the longest row whose inputs fit in `inputs_length` (T5's `random_spans_helper`).

  Its inputs fill `inputs_length` exactly, since one more token adds at most one input.

  Raises:
    ConfigError: not even a row of two tokens fits.
  """
  if inputs_length < _SHORTEST_INPUTS:
    raise errors.ConfigError(
      "The inputs of span corruption are too short.",
      value=inputs_length,
      rule="a kept token, a sentinel and EOS need a length of at least 3",
      remedy="raise 'inputs' in TASK_FEATURE_LENGTHS (512 in T5).",
    )
  tokens_length = inputs_length - 1  # fits: at least one token of noise becomes a sentinel
  while span_counts(tokens_length + 1).inputs_length <= inputs_length:
    tokens_length += 1
  return tokens_length


def check_lengths(inputs_length: int, targets_length: int, num_sentinels: int) -> int:
  """Returns the window for feature lengths that fit each other.

  Raises:
    ConfigError: the targets of a window do not fit in `targets_length`, or a window needs more than
      `num_sentinels` sentinels.
  """
  window = window_for_inputs(inputs_length)
  counts = span_counts(window)
  if counts.targets_length > targets_length:
    shorter = _longest_inputs(inputs_length, lambda c: c.targets_length <= targets_length)
    raise errors.ConfigError(
      "The feature lengths of span corruption do not correspond.",
      value=f"inputs={inputs_length}, targets={targets_length}",
      rule=f"a window of {window} tokens gives {inputs_length} inputs and "
      f"{counts.targets_length} targets, and none may be cut off",
      remedy=f"set targets={counts.targets_length} (or more, which is padded)"
      + (f", or inputs={shorter} with targets={targets_length}." if shorter else "."),
    )
  if counts.spans > num_sentinels:
    shorter = _longest_inputs(inputs_length, lambda c: c.spans <= num_sentinels)
    raise errors.ConfigError(
      "The vocabulary has too few sentinels for rows of this length.",
      value=f"inputs={inputs_length}: {counts.spans} spans, {num_sentinels} sentinels",
      rule="each span has its own sentinel; one more would be an ordinary piece",
      remedy=f"use a vocabulary with {counts.spans} extra_ids"
      + (f", or inputs of at most {shorter}." if shorter else "."),
    )
  return window


def _longest_inputs(limit: int, fits: Callable[[SpanCounts], bool]) -> int | None:
  """Returns the longest inputs, at most `limit`, whose window fits, if any does."""
  lengths = range(limit, _SHORTEST_INPUTS - 1, -1)
  return next((n for n in lengths if fits(span_counts(window_for_inputs(n)))), None)


def row_words(seed: int, rows: Sequence[int] | np.ndarray, count: int) -> np.ndarray:
  """Returns the first `count` random words of each row: uint64 [B, count]."""
  # One generator is set to each row's start: a third of the time that a new one for each takes.
  generator = np.random.Philox(key=seed)
  start = generator.state
  words = np.empty((len(rows), count), np.uint64)
  for i, row in enumerate(rows):
    start["state"]["counter"][:] = (0, 0, 0, row)
    generator.state = start
    words[i] = generator.random_raw(count)
  return words


def noise_masks(words: np.ndarray, tokens_length: int) -> np.ndarray:
  """Returns which tokens are noise: bool [B, L].

  Args:
    words: uint64 [B, L - 2], random: one for each place where a part may end.
    tokens_length: L, at least 2.
  """
  counts = span_counts(tokens_length)
  kept = _random_parts(words[:, : counts.kept - 1], counts.spans)
  noise = _random_parts(words[:, counts.kept - 1 :], counts.spans)
  # Kept and noise spans alternate; the spans after the first begin at the running sums.
  lengths = np.stack([kept, noise], axis=2).reshape(len(words), 2 * counts.spans)
  starts = np.cumsum(lengths, axis=1)[:, :-1]
  boundaries = np.zeros((len(words), tokens_length), np.int32)
  np.put_along_axis(boundaries, starts, 1, axis=1)
  return np.cumsum(boundaries, axis=1) % 2 == 1


def _random_parts(words: np.ndarray, parts: int) -> np.ndarray:
  """Splits n + 1 items into non-empty parts, uniformly: int64 [B, parts] that sum to n + 1.

  The `parts - 1` smallest of n random words mark the ends of parts: every choice is equally likely.

  Args:
    words: uint64 [B, n].
    parts: number of parts, at most n + 1.
  """
  batch, n = words.shape
  edges = np.empty((batch, parts + 1), np.int64)
  edges[:, 0], edges[:, -1] = 0, n + 1
  if parts > 1:
    smallest = np.argpartition(words, parts - 2, axis=1)[:, : parts - 1]
    edges[:, 1:-1] = np.sort(smallest, axis=1) + 1
  return np.diff(edges, axis=1)


def corrupt(
  tokens: np.ndarray, seed: int, rows: Sequence[int] | np.ndarray, *, top_id: int, eos_id: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns inputs and targets of rows of one length.

  Args:
    tokens: int32 [B, L], L at least 2.
    seed: of the data set, in [0, 2**128).
    rows: [B], the number of each row in the data set, in [0, 2**64).
    top_id: the highest id of the vocabulary, which is the first sentinel.
    eos_id: the id of EOS.

  Returns:
    int32 [B, `inputs_length`] and int32 [B, `targets_length`] of `span_counts(L)`.
  """
  length = tokens.shape[1]
  words = row_words(seed, rows, length - 2)
  noise = noise_masks(words, length)
  return (
    _replace_spans(tokens, noise, top_id=top_id, eos_id=eos_id),
    _replace_spans(tokens, ~noise, top_id=top_id, eos_id=eos_id),
  )


def _replace_spans(
  tokens: np.ndarray, replaced: np.ndarray, *, top_id: int, eos_id: int
) -> np.ndarray:
  """Replaces each run of `replaced` tokens by a sentinel and appends EOS; equal counts per row."""
  starts = replaced.copy()
  starts[:, 1:] &= ~replaced[:, :-1]
  sentinels = top_id + 1 - np.cumsum(starts, axis=1, dtype=np.int32)
  kept = np.where(starts, sentinels, tokens)[starts | ~replaced].reshape(len(tokens), -1)
  eos = np.full((len(tokens), 1), eos_id, np.int32)
  return np.concatenate([kept.astype(np.int32, copy=False), eos], axis=1)
