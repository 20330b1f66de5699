# SPDX-License-Identifier: Apache-2.0
"""One token after the other, the likeliest or a drawn one: greedy search and sampling."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from switch_t5.decoding.config import DecodingConfig
from switch_t5.decoding.step import Decoded, Limits, NextLogits, log_probabilities
from switch_t5.types import Array, PRNGKey, PyTree


class _State(NamedTuple):
  """Between two positions: tokens [B, K, T], the last of them [B, K], and so on."""

  time: Array
  tokens: Array
  last: Array
  running: Array
  scores: Array
  cache: PyTree


def sample(
  next_logits: NextLogits,
  cache: PyTree,
  config: DecodingConfig,
  limits: Limits,
  keys: PRNGKey,
) -> Decoded:
  """Decodes `num_return` answers to each sequence; ends as soon as all have ended.

  Args:
    next_logits: the model.
    cache: its cache before the first position.
    config: temperature 0 for greedy search.
    limits: see there.
    keys: [B], one for each sequence, which all of its draws follow from.
  """
  real, max_tokens, length, num_ids, eos_id = limits
  batch_size, hypotheses = real.shape[0], config.num_return
  own = jnp.arange(hypotheses, dtype=jnp.int32)[None, :, None]
  ancestors = jnp.broadcast_to(own, (batch_size, hypotheses, length))

  def goes_on(state: _State) -> Array:
    return (state.time < max_tokens) & state.running.any()

  def step(state: _State) -> _State:
    logits, cache = next_logits(state.last, state.time, ancestors, state.running, state.cache)
    log_probs = log_probabilities(logits, num_ids)
    if config.temperature:
      chosen = _draw(log_probs, config, keys, state.time)
    else:
      chosen = log_probs.argmax(axis=-1).astype(jnp.int32)
    chosen = jnp.where(state.running, chosen, 0)
    gained = jnp.take_along_axis(log_probs, chosen[..., None], axis=-1)[..., 0]
    return _State(
      state.time + 1,
      jax.lax.dynamic_update_slice_in_dim(state.tokens, chosen[..., None], state.time, axis=2),
      chosen,
      state.running & (chosen != eos_id),
      state.scores + jnp.where(state.running, gained, 0.0),
      cache,
    )

  zeros = jnp.zeros((batch_size, hypotheses), jnp.int32)
  state = jax.lax.while_loop(
    goes_on,
    step,
    _State(
      jnp.zeros((), jnp.int32),
      jnp.zeros((batch_size, hypotheses, length), jnp.int32),
      zeros,
      jnp.broadcast_to(real[:, None], zeros.shape),
      jnp.zeros(zeros.shape, jnp.float32),
      cache,
    ),
  )
  order = jnp.argsort(-state.scores, axis=-1, stable=True)
  tokens = jnp.take_along_axis(state.tokens, order[..., None], axis=1)
  return Decoded(tokens, jnp.take_along_axis(state.scores, order, axis=1))


def _draw(log_probs: Array, config: DecodingConfig, keys: PRNGKey, time: Array) -> Array:
  """Draws an id of each hypothesis, int32 [B, K], from what temperature, top_k and top_p leave."""
  num_ids = log_probs.shape[-1]
  scaled = log_probs / config.temperature
  # Sorted only where it must be: a vocabulary is long.
  kept = min(config.top_k or num_ids, num_ids)
  ids = None
  if kept < num_ids or config.top_p < 1:
    scaled, ids = jax.lax.top_k(scaled, kept)
  if config.top_p < 1:
    probs = jax.nn.softmax(scaled, axis=-1)
    before = jnp.cumsum(probs, axis=-1) - probs
    scaled = jnp.where(before < config.top_p, scaled, -jnp.inf)

  @partial(jax.vmap, in_axes=(0, 0))
  def of_sequence(key: PRNGKey, scaled: Array) -> Array:
    return jax.random.categorical(jax.random.fold_in(key, time), scaled, axis=-1)

  place = of_sequence(keys, scaled).astype(jnp.int32)
  if ids is None:
    return place
  return jnp.take_along_axis(ids, place[..., None], axis=-1)[..., 0].astype(jnp.int32)
