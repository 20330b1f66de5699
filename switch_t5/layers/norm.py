# SPDX-License-Identifier: Apache-2.0
"""T5's layer norm: root mean square, no mean, no bias."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from switch_t5.sharding.annotate import gathered, param
from switch_t5.types import Array, DType

EPSILON = 1e-6


class LayerNorm(nnx.Module):
  """x / sqrt(mean(x^2) + 1e-6) * scale, in float32, returned in `dtype` (Raffel et al., 2020)."""

  def __init__(self, features: int, *, dtype: DType):
    self.scale = param(jnp.ones((features,), jnp.float32), ("embed",))
    self.dtype = dtype

  def __call__(self, x: Array) -> Array:
    """Maps [..., features] to the same shape."""
    x32 = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + EPSILON)
    scale = jnp.expand_dims(gathered(self.scale, jnp.float32), tuple(range(x.ndim - 1)))
    return (x32 * inverse * scale).astype(self.dtype)
