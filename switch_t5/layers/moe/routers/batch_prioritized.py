# SPDX-License-Identifier: Apache-2.0
"""Batch-prioritised routing: the most certain tokens get places first."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from switch_t5.types import Array


def priority_order(gate: Array, mask: Array) -> Array:
  """Returns int32 [G, N]: tokens by falling gate of their first choice, padding last.

  V-MoE (Riquelme et al. 2021, 2106.05974, section 4). A token's place then depends on later ones, so
  it is for encoders only. Ties stay in token order.

  Args:
    gate: float32 [G, N, k].
    mask: bool [G, N], False on padding.
  """
  priority = jnp.where(mask, jax.lax.stop_gradient(gate[..., 0]), -1.0)
  return jnp.argsort(-priority, axis=1, stable=True).astype(jnp.int32)
