# SPDX-License-Identifier: Apache-2.0
"""Second tries against a loop over tokens, where the first expert need not be the best one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from switch_t5.layers.moe.dispatch import Routing
from switch_t5.layers.moe.routers.no_token_left_behind import no_token_left_behind


def random_case(groups, tokens, experts, seed):
  """Scores full of ties; first experts that do not follow from them; a group of padding alone."""
  rng = np.random.default_rng(seed)
  scores = rng.integers(1, 6, (groups, tokens, experts)).astype(np.float32) / 8
  first = rng.integers(0, experts, (groups, tokens, 1)).astype(np.int32)
  mask = rng.random((groups, tokens)) < 0.8
  mask[-1] = False
  return scores, first, mask


def naive_experts(scores, first, mask, capacity, num_tries):
  """Returns the experts that took the tokens, int [G, N]; E if none did."""
  groups, tokens, num_experts = scores.shape
  placed = np.full((groups, tokens), num_experts)
  for g in range(groups):
    load = [0] * num_experts
    tried = [[] for _ in range(tokens)]
    for j in range(num_tries):
      for n in range(tokens):
        if not mask[g, n] or placed[g, n] < num_experts or len(tried[n]) == num_experts:
          continue
        untried = [e for e in range(num_experts) if e not in tried[n]]
        expert = max(untried, key=lambda e: (scores[g, n, e], -e)) if j else first[g, n, 0]
        tried[n].append(expert)
        if load[expert] < capacity:
          load[expert] += 1
          placed[g, n] = expert
  return placed


@pytest.mark.parametrize(("experts", "capacity", "num_tries"), [(1, 3, 2), (4, 2, 3), (4, 1, 6)])
def test_a_token_tries_its_best_untried_experts_and_the_one_that_takes_it_has_the_gradient(
  experts, capacity, num_tries
):
  groups, tokens = 3, 9
  for seed in range(6):
    scores, first, mask = random_case(groups, tokens, experts, seed)

    def gates(scores, first=first, mask=mask):
      gate = jnp.take_along_axis(scores, jnp.asarray(first), axis=-1)
      routing = Routing(jnp.asarray(first), gate)
      got = no_token_left_behind(scores, routing, jnp.asarray(mask), capacity, num_tries)
      return got.gate.sum(), got

    bar, got = jax.grad(gates, has_aux=True)(jnp.asarray(scores))
    placed = naive_experts(scores, first, mask, capacity, num_tries)
    np.testing.assert_array_equal(got.expert_index[..., 0], placed)
    took = np.arange(experts) == placed[..., None]
    np.testing.assert_array_equal(got.gate[..., 0], (scores * took).sum(axis=-1))
    np.testing.assert_array_equal(bar, took.astype(np.float32))
