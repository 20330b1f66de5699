# SPDX-License-Identifier: Apache-2.0
"""What the token losses of a batch are divided by, in T5X's words."""

from __future__ import annotations

import jax.numpy as jnp

from switch_t5.types import Array

NUM_REAL_TARGET_TOKENS = "NUM_REAL_TARGET_TOKENS"
NUM_TOTAL_TARGET_TOKENS = "NUM_TOTAL_TARGET_TOKENS"
AVERAGE_PER_SEQUENCE = "AVERAGE_PER_SEQUENCE"
NORMALIZERS = (NUM_REAL_TARGET_TOKENS, NUM_TOTAL_TARGET_TOKENS, AVERAGE_PER_SEQUENCE)


def token_loss_weights(
  loss_normalizing_factor: str | float | None, weights: Array, segment_ids: Array
) -> Array:
  """Returns the weights with which token losses enter the loss, float32 [..., T].

  Those of the batch; for AVERAGE_PER_SEQUENCE such that each sequence's add up to 1, each of several
  that are packed into one row.

  Args:
    loss_normalizing_factor: of `LossConfig`.
    weights: float32 [..., T], of the batch's target tokens.
    segment_ids: int32 [..., T], of the decoder.
  """
  if loss_normalizing_factor != AVERAGE_PER_SEQUENCE:
    return weights
  same_sequence = segment_ids[..., :, None] == segment_ids[..., None, :]
  of_sequence = jnp.where(same_sequence, weights[..., None, :], 0.0).sum(axis=-1)
  return weights / jnp.where(of_sequence > 0.0, of_sequence, 1.0)


def loss_normalizer(
  loss_normalizing_factor: str | float | None, weights: Array, segment_ids: Array
) -> Array:
  """Returns what the whole batch's sum of token losses is divided by, float32 []; never 0.

  Args:
    loss_normalizing_factor: of `LossConfig`.
    weights: float32 [..., T], of the target tokens of all microbatches.
    segment_ids: int32 [..., T], of the decoder.
  """
  if loss_normalizing_factor is None:
    return jnp.ones((), jnp.float32)
  if loss_normalizing_factor == NUM_TOTAL_TARGET_TOKENS:
    return jnp.full((), weights.size, jnp.float32)
  if isinstance(loss_normalizing_factor, str):
    total = token_loss_weights(loss_normalizing_factor, weights, segment_ids).sum()
    return jnp.where(total > 0.0, total, 1.0)  # a batch of padding alone: the tail of a split
  return jnp.full((), loss_normalizing_factor, jnp.float32)
