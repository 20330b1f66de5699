# SPDX-License-Identifier: Apache-2.0
"""Who may attend to whom: tokens of one segment, no padding, in the decoder no future."""

from __future__ import annotations

import jax.numpy as jnp

from switch_t5.types import Array


def segment_mask(query_segment_ids: Array, key_segment_ids: Array) -> Array:
  """Returns bool [B, 1, Q, K]: query and key are of one segment and the key is not padding.

  Args:
    query_segment_ids: int32 [B, Q], 0 on padding.
    key_segment_ids: int32 [B, K], 0 on padding.
  """
  same = query_segment_ids[:, :, None] == key_segment_ids[:, None, :]
  return (same & (key_segment_ids[:, None, :] > 0))[:, None]


def causal_mask(length: int) -> Array:
  """Returns bool [1, 1, length, length]: the key is not after the query."""
  position = jnp.arange(length)
  return (position[None, :] <= position[:, None])[None, None]
