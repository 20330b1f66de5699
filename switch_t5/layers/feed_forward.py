# SPDX-License-Identifier: Apache-2.0
"""The dense feed-forward layer of T5 1.0: ReLU between two projections."""

from __future__ import annotations

import jax
from flax import nnx

from switch_t5.layers.dense import Dense
from switch_t5.layers.dropout import dropout_tokens
from switch_t5.types import Array, DType, PRNGKey


class FeedForward(nnx.Module):
  """relu(x @ wi) @ wo.

  Args:
    d_model: d.
    d_ff: f.
    dropout_rate: of the hidden activation.
    scale: of the initialisers.
    dtype: of the activations.
    rngs: stream `params`.
  """

  def __init__(
    self,
    d_model: int,
    d_ff: int,
    *,
    dropout_rate: float,
    scale: float,
    dtype: DType,
    rngs: nnx.Rngs,
  ):
    self.wi = Dense(d_model, d_ff, axes=("embed", "mlp"), scale=scale, dtype=dtype, rngs=rngs)
    self.wo = Dense(d_ff, d_model, axes=("mlp", "embed"), scale=scale, dtype=dtype, rngs=rngs)
    self.dropout_rate = dropout_rate

  def __call__(self, x: Array, batch_size: int, key: PRNGKey | None = None) -> Array:
    """Maps [batch_size * length, d] to the same shape."""
    hidden = jax.nn.relu(self.wi(x))
    return self.wo(dropout_tokens(hidden, self.dropout_rate, key, batch_size))
