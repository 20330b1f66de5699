# SPDX-License-Identifier: Apache-2.0
"""Noise that lets a router try other experts in training (paper App. C, Table 11)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from switch_t5.layers.row_key import RowKey
from switch_t5.types import Array, PRNGKey


def jitter(x: Array, noise: float, key: RowKey | None, batch_size: int) -> Array:
  """Returns float32 x [batch_size * L, d] times uniform(1 - noise, 1 + noise); unchanged without a key."""
  x = x.astype(jnp.float32)
  if key is None or noise == 0.0:
    return x
  draw = partial(jax.random.uniform, minval=1.0 - noise, maxval=1.0 + noise)
  return x * _by_row(draw, x, key, batch_size)


def input_dropout(x: Array, rate: float, key: RowKey | None, batch_size: int) -> Array:
  """Returns the same x with a share of its elements 0 and the rest scaled; unchanged without a key."""
  x = x.astype(jnp.float32)
  if key is None or rate == 0.0:
    return x
  kept = _by_row(
    lambda key, shape: jax.random.bernoulli(key, 1.0 - rate, shape), x, key, batch_size
  )
  return jnp.where(kept, x / (1.0 - rate), 0.0)


def sampling_noise(logits: Array, keys: PRNGKey) -> Array:
  """Returns logits plus Gumbel noise: their argmax is a draw from softmax(logits).

  Args:
    logits: float32 [G, N, E].
    keys: [G].
  """
  return logits + jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:]))(keys)


def _by_row(draw: Callable[..., Array], x: Array, key: RowKey, batch_size: int) -> Array:
  """Draws for each row of x [batch_size * L, d] with the row's own key."""
  shape = (x.shape[0] // batch_size, x.shape[1])
  return jax.vmap(lambda key: draw(key, shape))(key.of_rows(batch_size)).reshape(x.shape)
