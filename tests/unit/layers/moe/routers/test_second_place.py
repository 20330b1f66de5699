# SPDX-License-Identifier: Apache-2.0
"""Second choices that are given up: what is left of their gates' gradients, and who draws."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from switch_t5.layers.moe.dispatch import Routing
from switch_t5.layers.moe.routers.second_place import second_place

GROUPS, TOKENS, EXPERTS = 3, 16, 5


def random_routing():
  rng = np.random.default_rng(0)
  index = rng.random((GROUPS, TOKENS, EXPERTS)).argsort(axis=-1)[..., :2].astype(np.int32)
  gate = -np.sort(-rng.random((GROUPS, TOKENS, 2), np.float32), axis=-1) / 2
  return Routing(jnp.asarray(index), jnp.asarray(gate))


@pytest.mark.parametrize("policy", ["all", "none", "threshold", "random"])
def test_gates_of_choices_that_are_kept_have_a_gradient_and_no_others(policy):
  routing = random_routing()
  keys = jax.random.split(jax.random.key(0), GROUPS)

  def gates(gate):
    got = second_place(routing._replace(gate=gate), policy, 0.4, keys, EXPERTS)
    return got.gate.sum(), got.expert_index

  bar, index = jax.grad(gates, has_aux=True)(routing.gate)
  kept = np.asarray(index) < EXPERTS
  assert kept[..., 0].all()
  np.testing.assert_array_equal(bar, kept.astype(np.float32))
  if policy in ("threshold", "random"):
    assert 0 < kept[..., 1].sum() < GROUPS * TOKENS


def test_a_groups_draw_follows_from_its_key_alone():
  routing = random_routing()
  keys = jax.random.split(jax.random.key(0), GROUPS)
  together = second_place(routing, "random", 0.9, keys, EXPERTS).expert_index
  for g in range(GROUPS):
    alone = jax.tree.map(lambda x, g=g: x[g : g + 1], routing)
    got = second_place(alone, "random", 0.9, keys[g : g + 1], EXPERTS)
    np.testing.assert_array_equal(got.expert_index[0], together[g])
