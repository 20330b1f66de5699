# SPDX-License-Identifier: Apache-2.0
"""Token embeddings, shared by encoder, decoder and (in T5 1.0) the logits; T5 1.1's own logits."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from switch_t5.layers.dense import stable_logits
from switch_t5.layers.initializers import truncated_normal
from switch_t5.sharding.annotate import batch_shards, copied, gathered, param
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

  def tables(self) -> Array | None:
    """Returns the table in `dtype` once for each shard of the batch, [shards, V, d]; None for one shard.

    The gradient of lookups and logits that are given the same ones crosses devices as one table in
    `dtype`, not as one for each use.
    """
    if (shards := batch_shards()) == 1:
      return None
    return copied(self._table(), shards, "vocab", "embed")

  def __call__(self, token_ids: Array, tables: Array | None = None) -> Array:
    """Maps int32 [tokens] to [tokens, d]; each shard of the tokens by its own of `tables`, if given."""
    return self._by_shard(look_up, token_ids, tables)

  def logits(self, x: Array, tables: Array | None = None) -> Array:
    """Maps [tokens, d] to float32 [tokens, V], scaled by d^-1/2 as tied T5 does; `tables` as above."""
    x = x * jnp.asarray(x.shape[-1] ** -0.5, x.dtype)
    return self._by_shard(lambda table, x: stable_logits(x, table.T), x, tables)

  def _table(self) -> Array:
    # Cast before: with V split over model the rows are a sum over devices, in the activations' type.
    return gathered(self.embedding, self.dtype)

  def _by_shard(
    self, use: Callable[[Array, Array], Array], x: Array, tables: Array | None
  ) -> Array:
    """Returns use(table, x) of x [tokens, ...]."""
    if tables is None:
      return use(self._table(), x)
    found = jax.vmap(use)(tables, x.reshape(tables.shape[0], -1, *x.shape[1:]))
    return found.reshape(-1, found.shape[-1])


class LogitsDense(nnx.Module):
  """T5 1.1's kernel [d, V] of the logits; float32, used in the activations' dtype, not scaled."""

  def __init__(self, features: int, vocab_size: int, *, scale: float, rngs: nnx.Rngs):
    kernel = truncated_normal(rngs.params(), (features, vocab_size), scale, features)
    self.kernel = param(kernel, ("embed", "vocab"))

  def __call__(self, x: Array) -> Array:
    """Maps [tokens, d] to float32 [tokens, V]."""
    return stable_logits(x, gathered(self.kernel, x.dtype))
