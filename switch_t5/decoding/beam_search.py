# SPDX-License-Identifier: Apache-2.0
"""Beam search: the K likeliest hypotheses of each sequence, side by side.

At each time the 2K best of the K * V ways to go on are looked at. Those among the K best that end
(with EOS, or because there is no room for more) are finished, and the K best finished ones are kept;
the K best that do not end run on. A sequence is over when no running hypothesis can get better than
all that are finished (`DecodingConfig.beam_scores` says what is taken for that).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from switch_t5.decoding.config import DecodingConfig
from switch_t5.decoding.step import IMPOSSIBLE, Decoded, Limits, NextLogits, log_probabilities
from switch_t5.types import Array, PyTree


class _Beams(NamedTuple):
  """Between two positions.

  Attributes:
    time: int32 [].
    tokens, ancestors: int32 [B, K, T], of the running hypotheses.
    scores: float32 [B, K], their log-probabilities, the best first.
    finished: int32 [B, K, T], the best ones.
    finished_scores: float32 [B, K], log-probabilities over their penalties, the best first.
    is_open: bool [B], whether a running hypothesis can still get better than they are.
    cache: of the model.
  """

  time: Array
  tokens: Array
  ancestors: Array
  scores: Array
  finished: Array
  finished_scores: Array
  is_open: Array
  cache: PyTree


def beam_search(
  next_logits: NextLogits,
  cache: PyTree,
  config: DecodingConfig,
  limits: Limits,
) -> Decoded:
  """Returns the `num_return` best answers to each sequence; the arguments are those of `sample`."""
  real, max_tokens, length, num_ids, eos_id = limits
  batch_size, beams = real.shape[0], config.num_beams
  empty = jnp.zeros((batch_size, beams, length), jnp.int32)
  none = jnp.full((batch_size, beams), IMPOSSIBLE, jnp.float32)
  own = jnp.arange(beams, dtype=jnp.int32)
  start = _Beams(
    time=jnp.zeros((), jnp.int32),
    tokens=empty,
    ancestors=jnp.broadcast_to(own[None, :, None], empty.shape),
    scores=none.at[:, 0].set(0.0),  # all begin alike: only one of them counts
    finished=empty,
    finished_scores=none,
    is_open=real,
    cache=cache,
  )

  def goes_on(state: _Beams) -> Array:
    return (state.time < max_tokens) & state.is_open.any()

  def step(state: _Beams) -> _Beams:
    last = jnp.take(state.tokens, jnp.maximum(state.time - 1, 0), axis=2)
    running = jnp.broadcast_to(state.is_open[:, None], last.shape)
    logits, cache = next_logits(last, state.time, state.ancestors, running, state.cache)
    scores = log_probabilities(logits, num_ids) + state.scores[..., None]
    scores, parents, ids = _best(scores, 2 * beams)
    tokens = _take(state.tokens, parents)
    tokens = jax.lax.dynamic_update_slice_in_dim(tokens, ids[..., None], state.time, axis=2)
    ends = (ids == eos_id) | (state.time + 1 >= max_tokens)
    finished, finished_scores = _finish(config, state, tokens, scores, ends)
    running_scores, chosen = jax.lax.top_k(jnp.where(ends, IMPOSSIBLE, scores), beams)
    ancestors = _take(state.ancestors, jnp.take_along_axis(parents, chosen, axis=1))
    after = _Beams(
      time=state.time + 1,
      tokens=_take(tokens, chosen),
      # The next position's own entries are the hypotheses' own.
      ancestors=jnp.where(
        (jnp.arange(length) > state.time)[None, None], own[None, :, None], ancestors
      ),
      scores=running_scores,
      finished=finished,
      finished_scores=finished_scores,
      is_open=state.is_open,
      cache=cache,
    )
    return after._replace(is_open=state.is_open & _can_improve(config, after, max_tokens))

  state = jax.lax.while_loop(goes_on, step, start)
  kept = config.num_return
  return Decoded(state.finished[:, :kept], state.finished_scores[:, :kept])


def _best(scores: Array, count: int) -> tuple[Array, Array, Array]:
  """Returns the `count` best of [B, K, V]: their scores, hypotheses and ids, each [B, count]."""
  batch_size, beams, num_ids = scores.shape
  # First of each hypothesis: what is sorted over all of them is short.
  of_each, ids = jax.lax.top_k(scores, min(count, num_ids))
  best, place = jax.lax.top_k(
    of_each.reshape(batch_size, -1), min(count, beams * of_each.shape[-1])
  )
  parents = (place // of_each.shape[-1]).astype(jnp.int32)
  ids = jnp.take_along_axis(ids.reshape(batch_size, -1), place, axis=1)
  return best, parents, ids.astype(jnp.int32)


def _take(of_hypotheses: Array, chosen: Array) -> Array:
  """Returns [B, n, T]: the chosen hypotheses [B, n] of [B, K, T]."""
  return jnp.take_along_axis(of_hypotheses, chosen[..., None], axis=1)


def _finish(
  config: DecodingConfig, state: _Beams, tokens: Array, scores: Array, ends: Array
) -> tuple[Array, Array]:
  """Returns the best finished hypotheses and their scores, those that end now among them."""
  beams = config.num_beams
  among_best = (jnp.arange(ends.shape[1]) < beams)[None]
  penalised = scores / penalty(config, state.time + 1)
  counts = ends & among_best & state.is_open[:, None]
  candidates = jnp.concatenate(
    [state.finished_scores, jnp.where(counts, penalised, IMPOSSIBLE)], axis=1
  )
  best, place = jax.lax.top_k(candidates, beams)
  return _take(jnp.concatenate([state.finished, tokens], axis=1), place), best


def _can_improve(config: DecodingConfig, state: _Beams, max_tokens: Array) -> Array:
  """Whether each sequence's best running hypothesis may get better than its worst finished one."""
  longest = max_tokens if config.beam_scores == "t5x" and config.length_penalty > 0 else state.time
  attainable = state.scores[:, 0] / penalty(config, longest)
  return attainable > state.finished_scores[:, -1]


def penalty(config: DecodingConfig, num_tokens: Array) -> Array:
  """Returns what an answer's log-probability is divided by, float32 []."""
  n = num_tokens.astype(jnp.float32)
  if config.beam_scores == "t5x":
    n = (5.0 + n) / 6.0
  return n**config.length_penalty
