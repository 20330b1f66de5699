# SPDX-License-Identifier: Apache-2.0
"""Noise that lets a router try other experts in training (paper App. C, Table 11)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from switch_t5.types import Array, PRNGKey


def jitter(x: Array, noise: float, key: PRNGKey | None) -> Array:
  """Returns float32 x times uniform(1 - noise, 1 + noise); unchanged without a key."""
  x = x.astype(jnp.float32)
  if key is None or noise == 0.0:
    return x
  return x * jax.random.uniform(key, x.shape, minval=1.0 - noise, maxval=1.0 + noise)


def input_dropout(x: Array, rate: float, key: PRNGKey | None) -> Array:
  """Returns float32 x with a share of its elements 0 and the rest scaled; unchanged without a key."""
  x = x.astype(jnp.float32)
  if key is None or rate == 0.0:
    return x
  return jnp.where(jax.random.bernoulli(key, 1.0 - rate, x.shape), x / (1.0 - rate), 0.0)


def sampling_noise(logits: Array, keys: PRNGKey) -> Array:
  """Returns logits plus Gumbel noise: their argmax is a draw from softmax(logits).

  Args:
    logits: float32 [G, N, E].
    keys: [G].
  """
  return logits + jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:]))(keys)
