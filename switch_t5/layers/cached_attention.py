# SPDX-License-Identifier: Apache-2.0
"""Attention of one new position at a time, over keys and values that are kept.

Decoding has K hypotheses of each of B sequences. All of a sequence's hypotheses share its memory, and
they share one cache too, whose entry t * K + j is hypothesis j's at time t: where hypothesis k goes on
from another one, nothing is copied, only its mask changes.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from switch_t5.layers.attention import MASKED_LOGIT, Attention
from switch_t5.sharding.annotate import constrain
from switch_t5.types import Array, DType


class KeyValues(NamedTuple):
  """Keys and values of N positions.

  Attributes:
    keys, values: [B, H, N, k].
  """

  keys: Array
  values: Array

  @classmethod
  def of(cls, keys: Array, values: Array, batch_size: int, num_heads: int) -> KeyValues:
    """Makes it of projections [B * N, H * k]."""
    return cls(*(by_head(x, batch_size, num_heads) for x in (keys, values)))

  @classmethod
  def empty(cls, shape: tuple[int, int, int, int], dtype: DType) -> KeyValues:
    """Makes room for N positions; `shape` is (B, H, N, k)."""
    zeros = constrain(jnp.zeros(shape, dtype), "batch", "heads", None, None)
    return cls(zeros, zeros)

  def write(self, keys: Array, values: Array, time: Array) -> KeyValues:
    """Returns the cache with the K hypotheses' entries of a time, from projections [B * K, H * k]."""
    batch_size, num_heads, _, _ = self.keys.shape
    num_hypotheses = keys.shape[0] // batch_size
    new = KeyValues.of(keys, values, batch_size, num_heads)
    start = time * num_hypotheses
    return KeyValues(
      *(
        jax.lax.dynamic_update_slice_in_dim(kept, entries.astype(kept.dtype), start, axis=2)
        for kept, entries in zip(self, new, strict=True)
      )
    )


class CachedStep(NamedTuple):
  """What self-attention of one position reads beside the cache.

  Attributes:
    time: int32 [], the position.
    mask: bool [B, 1, K, T * K]: which entries each hypothesis sees.
    bias: float32 [1, H, 1, T * K], of relative position.
  """

  time: Array
  mask: Array
  bias: Array


def by_head(projected: Array, batch_size: int, num_heads: int) -> Array:
  """Maps [B * N, H * k] to [B, H, N, k]."""
  x = projected.reshape(batch_size, -1, num_heads, projected.shape[-1] // num_heads)
  return constrain(x.swapaxes(1, 2), "batch", "heads", None, None)


def attend_cached(query: Array, kept: KeyValues, mask: Array, bias: Array | None = None) -> Array:
  """Returns each query's mean of the values, [B * Q, H * k]; the softmax is float32.

  Args:
    query: [B * Q, H * k].
    kept: keys and values of N positions.
    mask: bool [B, 1, Q, N].
    bias: float32 [1, H, 1, N], added to the logits.
  """
  batch_size, num_heads, _, _ = kept.keys.shape
  q = by_head(query, batch_size, num_heads)
  logits = jnp.einsum("bhqk,bhnk->bhqn", q, kept.keys, preferred_element_type=jnp.float32)
  if bias is not None:
    logits = logits + bias
  probs = jax.nn.softmax(jnp.where(mask, logits, MASKED_LOGIT), axis=-1)
  attended = jnp.einsum("bhqn,bhnk->bhqk", probs.astype(kept.values.dtype), kept.values)
  return attended.swapaxes(1, 2).reshape(query.shape)


def remember(attention: Attention, memory: Array, batch_size: int) -> KeyValues:
  """Returns an attention layer's keys and values of memory [B * S, d]."""
  keys, values = attention.key(memory), attention.value(memory)
  return KeyValues.of(keys, values, batch_size, attention.num_heads)


def attend_to_memory(attention: Attention, x: Array, kept: KeyValues, mask: Array) -> Array:
  """Maps [B * K, d] to the same shape: K hypotheses read what `remember` returned.

  Args:
    attention: a layer.
    x: queries come from it.
    kept: of the memory.
    mask: bool [B, 1, 1, S], False on padding.
  """
  return attention.out(attend_cached(attention.query(x), kept, mask))


def attend_to_past(
  attention: Attention, x: Array, kept: KeyValues, step: CachedStep
) -> tuple[Array, KeyValues]:
  """Maps [B * K, d] of one position to the same shape, and the cache with that position in it."""
  kept = kept.write(attention.key(x), attention.value(x), step.time)
  attended = attend_cached(attention.query(x), kept, step.mask, step.bias)
  return attention.out(attended), kept
