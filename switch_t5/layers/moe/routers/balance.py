# SPDX-License-Identifier: Apache-2.0
"""The load-balance loss."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from switch_t5.types import Array


def balance_loss(load: Array, score_sum: Array, num_tokens: Array) -> Array:
  """Returns float32 [S]: E * sum_i f_i P_i (paper eq. 4-6), before the factor alpha.

  f_i is the fraction of all choices that are i, before any is dropped, and carries no gradient; P_i
  is the mean probability of i. Even routing gives 1. With several choices a token all of them count
  (DeepSeekMoE, 2401.06066, eq. 12-14); Mesh-TensorFlow counts first ones. A scope of nothing but
  padding gives 0.

  Args:
    load: float32 [S, E], choices of each expert in each scope.
    score_sum: float32 [S, E], sums of probabilities over real tokens.
    num_tokens: float32 [S], real tokens.
  """
  choices = jnp.maximum(load.sum(axis=-1, keepdims=True), 1.0)
  fraction = jax.lax.stop_gradient(load / choices)
  mean_prob = score_sum / jnp.maximum(num_tokens, 1.0)[:, None]
  return load.shape[-1] * (fraction * mean_prob).sum(axis=-1)
