# SPDX-License-Identifier: Apache-2.0
"""T5's relative position bias (Raffel et al., 2020, section 2.1)."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from switch_t5.sharding.annotate import constrain, copied, param
from switch_t5.types import Array

NUM_BUCKETS = 32
MAX_DISTANCE = 128


def relative_position_bucket(distance: np.ndarray, *, bidirectional: bool) -> np.ndarray:
  """Maps key position minus query position (int, any shape) to a bucket in [0, 32).

  Half of the buckets are exact, the other half grow logarithmically up to distance 128. If
  bidirectional, keys after the query use the upper 16 buckets; else they share bucket 0.
  """
  backward = -distance
  buckets = np.zeros_like(distance)
  num_buckets = NUM_BUCKETS
  if bidirectional:
    num_buckets //= 2
    buckets += np.where(backward < 0, num_buckets, 0)
    backward = np.abs(backward)
  else:
    backward = np.maximum(backward, 0)
  max_exact = num_buckets // 2
  ratio = np.log(backward.astype(np.float32) / max_exact + np.finfo(np.float32).eps)
  far = max_exact + (ratio / math.log(MAX_DISTANCE / max_exact) * (num_buckets - max_exact)).astype(
    distance.dtype
  )
  return buckets + np.where(backward < max_exact, backward, np.minimum(far, num_buckets - 1))


class RelativePositionBias(nnx.Module):
  """One bias per head and bucket, shared by all layers of a stack."""

  def __init__(self, num_heads: int, *, bidirectional: bool, rngs: nnx.Rngs):
    init = jax.nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
    table = init(rngs.params(), (num_heads, NUM_BUCKETS), jnp.float32)
    self.rel_embedding = param(table, ("heads", "relpos_buckets"))
    self.bidirectional = bidirectional

  def __call__(self, length: int, copies: int = 1) -> Array:
    """Returns the bias of query (row) and key (column), float32 [copies, H, length, length].

    With a copy for each shard of the batch, a device has its gradient to itself until it is summed over
    all layers: what crosses devices is a sum of the table once, not of [H, length, length] a layer.
    """
    table = copied(jnp.asarray(self.rel_embedding[...]), copies, "heads", "relpos_buckets")
    distances = np.arange(1 - length, length, dtype=np.int32)
    buckets = relative_position_bucket(distances, bidirectional=self.bidirectional)
    by_distance = table[..., buckets]
    # Computed on the device: as a constant it would make the program length^2 large.
    position = jnp.arange(length, dtype=jnp.int32)
    bias = by_distance[..., position[None, :] - position[:, None] + length - 1]
    return constrain(bias, "batch", "heads", "length", "length") if copies > 1 else bias
