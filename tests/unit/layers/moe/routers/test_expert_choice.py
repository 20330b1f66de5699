# SPDX-License-Identifier: Apache-2.0
"""Experts that choose: ties, few tokens, and the same rounding as a capacity's."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from switch_t5.layers.moe.capacity import expert_capacity
from switch_t5.layers.moe.routers.expert_choice import expert_choice, scatter_outputs


@pytest.mark.parametrize("experts", [1, 3, 6])
@pytest.mark.parametrize("experts_per_token", [0.1, 1.1, 2.0])
def test_shares_are_capacities_of_the_real_tokens_and_ties_go_to_earlier_ones(
  experts, experts_per_token
):
  groups, tokens = 3, 11
  rng = np.random.default_rng(0)
  scores = rng.integers(1, 4, (groups, tokens, experts)).astype(np.float32) / 4  # full of ties
  mask = rng.random((groups, tokens)) < 0.6
  mask[1] = False
  choice = expert_choice(jnp.asarray(scores), jnp.asarray(mask), experts_per_token)
  places = expert_capacity(experts_per_token, tokens, experts, 1)
  token = np.asarray(choice.token_of_slot).reshape(experts, groups, places)
  gate = np.asarray(choice.gate).reshape(token.shape)
  for g in range(groups):
    real = [n for n in range(tokens) if mask[g, n]]
    share = expert_capacity(experts_per_token, len(real), experts, 1)
    for e in range(experts):
      best = sorted(real, key=lambda n: (-scores[g, n, e], n))[:share]
      empty = [groups * tokens] * (places - len(best))
      assert token[e, g].tolist() == [g * tokens + n for n in best] + empty
      assert gate[e, g].tolist() == scores[g, best, e].tolist() + [0.0] * len(empty)


def test_outputs_in_bfloat16_are_summed_in_float32():
  experts = 64
  scores = jnp.full((1, 1, experts), 1.0)
  choice = expert_choice(scores, jnp.ones((1, 1), bool), float(experts))
  buffer = jnp.full((experts, 3), 0.0078125, jnp.bfloat16).at[0].set(2.0)
  y = scatter_outputs(buffer, choice, 1)
  assert y.dtype == jnp.bfloat16
  # 2 + 63 * 2^-7; added one by one in bfloat16 it would stay 2.
  np.testing.assert_array_equal(y, np.full((1, 3), jnp.bfloat16(2.0 + 63 / 128)))
