# SPDX-License-Identifier: Apache-2.0
"""Self-attention whose projections are a Switch layer (paper App. A, Table 10)."""

from __future__ import annotations

from flax import nnx

from switch_t5.layers.attention import attend
from switch_t5.layers.cached_attention import CachedStep, KeyValues, attend_cached
from switch_t5.layers.dense import Dense
from switch_t5.layers.moe.router_statistics import RouterReport
from switch_t5.layers.moe.switch_layer import SwitchLayer
from switch_t5.layers.row_key import RowKey, split_key
from switch_t5.types import Array, DType


class SwitchAttention(nnx.Module):
  """Each token's expert makes its query, and what is both its key and its value.

  A token that finds its expert full has a query, key and value of zeros.

  Args:
    d_model, num_heads, d_kv: d, H, k.
    projections: a Switch layer of `AttentionExperts`.
    dropout_rate: of the attention probabilities.
    scale: of the output's initialiser.
    dtype: of the activations; the paper's runs were stable in float32 only.
    recompute: as of `Attention`.
    rngs: stream `params`.
  """

  def __init__(
    self,
    d_model: int,
    num_heads: int,
    d_kv: int,
    *,
    projections: SwitchLayer,
    dropout_rate: float,
    scale: float,
    dtype: DType,
    recompute: bool = False,
    rngs: nnx.Rngs,
  ):
    self.projections = projections
    self.out = Dense(
      num_heads * d_kv, d_model, axes=("joined_kv", "embed"), scale=scale, dtype=dtype, rngs=rngs
    )
    self.num_heads, self.dropout_rate, self.recompute = num_heads, dropout_rate, recompute

  def __call__(
    self,
    x: Array,
    mask: Array,
    bias: Array | None,
    *,
    token_mask: Array,
    token_ids: Array | None,
    capacity_factor: float | None,
    key: RowKey | None,
  ) -> tuple[Array, RouterReport]:
    """Attends.

    Args:
      x: [B * L, d].
      mask, bias: bool [B, 1, L, L] and float32 [S, H, L, L], as of `Attention`.
      token_mask, token_ids, capacity_factor: of the Switch layer.
      key: for its noise, and for dropout.

    Returns:
      [B * L, d] and the router's report.
    """
    routing_key, dropout_key = split_key(key, 2)
    (query, key_value), report = self.projections(
      x, token_mask, capacity_factor=capacity_factor, token_ids=token_ids, key=routing_key
    )
    attended = attend(
      query,
      key_value,
      key_value,
      mask,
      bias,
      num_heads=self.num_heads,
      dropout_rate=self.dropout_rate,
      dropout_key=dropout_key,
      recompute=self.recompute,
    )
    return self.out(attended), report

  def attend_to_past(
    self,
    x: Array,
    kept: KeyValues,
    step: CachedStep,
    *,
    token_mask: Array,
    token_ids: Array,
    positions: Array,
  ) -> tuple[Array, KeyValues]:
    """Maps [B * K, d] of one position to the same shape, and the cache with that position in it.

    Args:
      x: of K hypotheses of each sequence.
      kept: keys and values so far.
      step: see there.
      token_mask, token_ids, positions: [B * K, 1], of the Switch layer; routing is dropless.
    """
    (query, key_value), _ = self.projections(
      x, token_mask, capacity_factor=None, token_ids=token_ids, positions=positions
    )
    kept = kept.write(key_value, key_value, step.time)
    return self.out(attend_cached(query, kept, step.mask, step.bias)), kept
