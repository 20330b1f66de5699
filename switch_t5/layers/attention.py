# SPDX-License-Identifier: Apache-2.0
"""Multi-head attention as T5 has it: no biases, logits not scaled at run time."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from switch_t5.layers.dense import Dense
from switch_t5.layers.dropout import dropout
from switch_t5.layers.row_key import RowKey
from switch_t5.sharding.annotate import constrain
from switch_t5.types import Array, DType

MASKED_LOGIT = -1e10


class Attention(nnx.Module):
  """Attention of queries over keys and values; kernels are fused over heads, [d, H * k].

  Args:
    d_model: d.
    num_heads: H.
    d_kv: k, the size of a head.
    dropout_rate: of the attention probabilities; one mask for all queries, as T5X draws it.
    scale: of the initialisers. The query's is divided by k, in place of scaling the logits.
    dtype: of the activations; the softmax is float32.
    recompute: whether the backward pass computes the probabilities again in place of keeping them.
    rngs: stream `params`.
  """

  def __init__(
    self,
    d_model: int,
    num_heads: int,
    d_kv: int,
    *,
    dropout_rate: float,
    scale: float,
    dtype: DType,
    recompute: bool = False,
    rngs: nnx.Rngs,
  ):
    def project(scale: float) -> Dense:
      axes = ("embed", "joined_kv")
      return Dense(d_model, num_heads * d_kv, axes=axes, scale=scale, dtype=dtype, rngs=rngs)

    self.query, self.key, self.value = project(scale / d_kv), project(scale), project(scale)
    self.out = Dense(
      num_heads * d_kv, d_model, axes=("joined_kv", "embed"), scale=scale, dtype=dtype, rngs=rngs
    )
    self.num_heads, self.dropout_rate, self.recompute = num_heads, dropout_rate, recompute

  def __call__(
    self,
    x: Array,
    memory: Array,
    mask: Array,
    bias: Array | None = None,
    key: RowKey | None = None,
  ) -> Array:
    """Attends.

    Args:
      x: queries come from it, [B * Q, d].
      memory: keys and values come from it, [B * K, d]; x itself in self-attention.
      mask: bool [B, 1, Q, K], False where a query must not see a key.
      bias: float32 [S, H, Q, K] added to the logits of each of S equal parts of the batch.
      key: for dropout.

    Returns:
      [B * Q, d].
    """
    attended = attend(
      self.query(x),
      self.key(memory),
      self.value(memory),
      mask,
      bias,
      num_heads=self.num_heads,
      dropout_rate=self.dropout_rate,
      dropout_key=key,
      recompute=self.recompute,
    )
    return self.out(attended)


def attend(
  query: Array,
  key: Array,
  value: Array,
  mask: Array,
  bias: Array | None,
  *,
  num_heads: int,
  dropout_rate: float,
  dropout_key: RowKey | None,
  recompute: bool = False,
) -> Array:
  """Returns each query's mean of the values, [B * Q, H * k]; the softmax is float32.

  Args:
    query: [B * Q, H * k].
    key, value: [B * K, H * k].
    mask, bias: as of `Attention`.
    num_heads: H.
    dropout_rate: of the attention probabilities.
    dropout_key: for dropout.
    recompute: as of `Attention`.
  """
  q, k, v = (
    constrain(
      projected.reshape(mask.shape[0], -1, num_heads, projected.shape[-1] // num_heads),
      "batch",
      "length",
      "heads",
      "kv",
    )
    for projected in (query, key, value)
  )

  def mean_of_values(q, k, v, mask, bias, dropout_key):
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32)
    if bias is not None:
      parts = logits.reshape(bias.shape[0], -1, *logits.shape[1:])
      logits = (parts + bias[:, None]).reshape(logits.shape)
    probs = jax.nn.softmax(jnp.where(mask, logits, MASKED_LOGIT), axis=-1).astype(v.dtype)
    batch, heads, _, keys = probs.shape
    probs = dropout(probs, dropout_rate, dropout_key, (batch, heads, 1, keys))
    return jnp.einsum("bhqk,bkhd->bqhd", probs, v)

  if recompute:
    mean_of_values = jax.checkpoint(mean_of_values)
  return mean_of_values(q, k, v, mask, bias, dropout_key).reshape(query.shape)
