# SPDX-License-Identifier: Apache-2.0
"""Token embeddings, shared by encoder, decoder and (in T5 1.0) the logits; T5 1.1's own logits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from switch_t5.layers.dense import stable_logits
from switch_t5.layers.initializers import truncated_normal
from switch_t5.sharding.annotate import gathered, param
from switch_t5.types import Array, DType


@jax.custom_vjp
def look_up(table: Array, ids: Array) -> Array:
  """Returns table[ids], [tokens, d], for a table [V, d]; its gradient is summed in float32."""
  return table[ids]


def _look_up_forward(table, ids):
  return table[ids], (table, ids)


def _look_up_backward(residuals, g):
  table, ids = residuals
  # A frequent token has thousands of gradients: in bfloat16 most of them would not change the sum.
  summed = jnp.zeros(table.shape, jnp.float32).at[ids].add(g.astype(jnp.float32))
  return summed.astype(table.dtype), None


look_up.defvjp(_look_up_forward, _look_up_backward)


class Embedding(nnx.Module):
  """A table [V, d], drawn from N(0, 1); float32, used in `dtype`."""

  def __init__(self, vocab_size: int, features: int, *, dtype: DType, rngs: nnx.Rngs):
    table = jax.random.normal(rngs.params(), (vocab_size, features))
    self.embedding = param(table, ("vocab", "embed"))
    self.dtype = dtype

  def __call__(self, token_ids: Array) -> Array:
    """Maps int32 [tokens] to [tokens, d]."""
    # Cast before: with V split over model the rows are a sum over devices, in the activations' type.
    return look_up(gathered(self.embedding, self.dtype), token_ids)

  def logits(self, x: Array) -> Array:
    """Maps [tokens, d] to float32 [tokens, V], scaled by d^-1/2 as tied T5 does."""
    x = x * jnp.asarray(x.shape[-1] ** -0.5, x.dtype)
    return stable_logits(x, gathered(self.embedding, x.dtype).T)


class LogitsDense(nnx.Module):
  """T5 1.1's kernel [d, V] of the logits; float32, used in the activations' dtype, not scaled."""

  def __init__(self, features: int, vocab_size: int, *, scale: float, rngs: nnx.Rngs):
    kernel = truncated_normal(rngs.params(), (features, vocab_size), scale, features)
    self.kernel = param(kernel, ("embed", "vocab"))

  def __call__(self, x: Array) -> Array:
    """Maps [tokens, d] to float32 [tokens, V]."""
    return stable_logits(x, gathered(self.kernel, x.dtype))
