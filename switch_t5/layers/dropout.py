# SPDX-License-Identifier: Apache-2.0
"""Dropout. Layers take an explicit key; None means that nothing is dropped."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from switch_t5.layers.row_key import RowKey
from switch_t5.types import Array


def dropout(x: Array, rate: float, key: RowKey | None, shape: tuple[int, ...]) -> Array:
  """Zeroes elements of x with probability `rate` and scales the rest by 1 / (1 - rate).

  Args:
    x: any array.
    rate: in [0, 1).
    key: None for no dropout.
    shape: of the drawn mask, rows first, which is broadcast against x: an axis of size 1 shares its
      draw.
  """
  if key is None or rate == 0.0:
    return x
  draw = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, shape[1:]))
  keep = draw(key.of_rows(shape[0]))
  return jnp.where(keep, x / jnp.asarray(1.0 - rate, x.dtype), jnp.zeros((), x.dtype))


def dropout_tokens(x: Array, rate: float, key: RowKey | None, batch_size: int) -> Array:
  """Dropout of [batch * length, d] with one mask for all positions of a sequence, as T5X draws it."""
  if key is None or rate == 0.0:
    return x
  by_sequence = x.reshape(batch_size, -1, x.shape[-1])
  dropped = dropout(by_sequence, rate, key, (batch_size, 1, x.shape[-1]))
  return dropped.reshape(x.shape)
