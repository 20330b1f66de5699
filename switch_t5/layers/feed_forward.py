# SPDX-License-Identifier: Apache-2.0
"""The dense feed-forward layer: ReLU (T5 1.0) or gated GELU (T5 1.1) between projections."""

from __future__ import annotations

from flax import nnx

from switch_t5.layers.activations import activate, projection_names
from switch_t5.layers.dense import Dense
from switch_t5.layers.dropout import dropout_tokens
from switch_t5.layers.row_key import RowKey
from switch_t5.types import Array, DType


class FeedForward(nnx.Module):
  """activation(x @ wi) @ wo; gated: (gelu(x @ wi_0) * (x @ wi_1)) @ wo.

  Args:
    d_model: d.
    d_ff: f.
    activations: one for each input projection; several are multiplied.
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
    activations: tuple[str, ...] = ("relu",),
    dropout_rate: float,
    scale: float,
    dtype: DType,
    rngs: nnx.Rngs,
  ):
    for name in projection_names(activations):
      wi = Dense(d_model, d_ff, axes=("embed", "mlp"), scale=scale, dtype=dtype, rngs=rngs)
      setattr(self, name, wi)
    self.wo = Dense(d_ff, d_model, axes=("mlp", "embed"), scale=scale, dtype=dtype, rngs=rngs)
    self.activations, self.dropout_rate = activations, dropout_rate

  def __call__(self, x: Array, batch_size: int, key: RowKey | None = None) -> Array:
    """Maps [batch_size * length, d] to the same shape."""
    projected = [getattr(self, name)(x) for name in projection_names(self.activations)]
    hidden = activate(projected, self.activations)
    return self.wo(dropout_tokens(hidden, self.dropout_rate, key, batch_size))
