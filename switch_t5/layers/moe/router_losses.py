# SPDX-License-Identifier: Apache-2.0
"""Losses of the router, per group; padding counts in none of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from switch_t5.types import Array


def load_balance_loss(router_probs: Array, top1_index: Array, mask: Array) -> Array:
  """Returns float32 [G]: E * sum_i f_i P_i (paper eq. 4-6), before the factor alpha.

  f_i is the fraction of real tokens whose first choice is i, before any is dropped, and carries no
  gradient; P_i is the mean probability of i over real tokens. Uniform routing gives 1. A group of
  nothing but padding gives 0.

  Args:
    router_probs: float32 [G, N, E].
    top1_index: int32 [G, N].
    mask: bool [G, N], False on padding.
  """
  num_experts = router_probs.shape[-1]
  weights = mask.astype(jnp.float32)[..., None]
  num_tokens = jnp.maximum(weights.sum(axis=1), 1.0)  # [G, 1]
  chosen = jax.nn.one_hot(top1_index, num_experts, dtype=jnp.float32)
  fraction = (chosen * weights).sum(axis=1) / num_tokens
  mean_prob = (router_probs * weights).sum(axis=1) / num_tokens
  return num_experts * (fraction * mean_prob).sum(axis=-1)


def router_z_loss(router_logits: Array, mask: Array) -> Array:
  """Returns float32 [G]: mean over real tokens of logsumexp(logits)^2 (ST-MoE eq. 5).

  Args:
    router_logits: float32 [G, N, E].
    mask: bool [G, N], False on padding.
  """
  weights = mask.astype(jnp.float32)
  log_z = jax.nn.logsumexp(router_logits, axis=-1)
  return (log_z * log_z * weights).sum(axis=1) / jnp.maximum(weights.sum(axis=1), 1.0)
