# SPDX-License-Identifier: Apache-2.0
"""Choices of the k best experts against sorting each token's experts, ties included."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from switch_t5.layers.moe.routers.top_k import renormalized, top_k


@pytest.mark.parametrize(("experts", "k"), [(1, 1), (4, 1), (4, 3), (4, 4)])
def test_tied_experts_are_chosen_in_their_order(experts, k):
  rng = np.random.default_rng(0)
  scores = rng.random((2, 30, experts), np.float32)
  selection = rng.integers(1, 4, scores.shape).astype(np.float32)  # full of ties
  routing = top_k(jnp.asarray(scores), k, jnp.asarray(selection))
  for g, n in np.ndindex(scores.shape[:2]):
    wanted = sorted(range(experts), key=lambda e: (-selection[g, n, e], e))[:k]
    assert routing.expert_index[g, n].tolist() == wanted
    assert routing.gate[g, n].tolist() == scores[g, n, wanted].tolist()


def test_the_gradient_of_renormalised_gates_is_that_of_a_quotient():
  rng = np.random.default_rng(1)
  scores = jnp.asarray(0.1 + rng.random((2, 5, 4)), jnp.float32)
  weights = rng.normal(size=(2, 5, 2))
  bar = jax.grad(
    lambda s: (renormalized(top_k(s, 2)).gate * jnp.asarray(weights, jnp.float32)).sum()
  )(scores)
  wanted = np.zeros(scores.shape)
  for g, n in np.ndindex(2, 5):
    s = np.asarray(scores[g, n], np.float64)
    first, second = np.argsort(-s)[:2]
    total = s[first] + s[second]
    difference = weights[g, n, 0] - weights[g, n, 1]
    wanted[g, n, first] = difference * s[second] / total**2
    wanted[g, n, second] = -difference * s[first] / total**2
  np.testing.assert_allclose(bar, wanted, rtol=1e-5, atol=1e-6)
