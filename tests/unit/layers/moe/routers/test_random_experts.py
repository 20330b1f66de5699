# SPDX-License-Identifier: Apache-2.0
"""Random experts: what a draw follows from."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from switch_t5.layers.moe.routers.random_experts import random_experts


def test_a_groups_draw_follows_from_its_key_alone():
  keys = jax.random.split(jax.random.key(0), 3)
  together = random_experts(keys, jnp.zeros((3, 8), jnp.int32), 5).expert_index
  for g in range(3):
    alone = random_experts(keys[g : g + 1], jnp.ones((1, 8), jnp.int32), 5).expert_index
    np.testing.assert_array_equal(alone[0], together[g])


def test_one_expert_gets_every_token():
  positions = jnp.arange(6, dtype=jnp.int32)[None]
  for keys in (None, jax.random.split(jax.random.key(0), 1)):
    assert (random_experts(keys, positions, 1).expert_index == 0).all()
