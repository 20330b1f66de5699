# SPDX-License-Identifier: Apache-2.0
"""The load-balance loss against counting choices token by token, with its gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from switch_t5.layers.moe.routers.balance import balance_loss


@pytest.mark.parametrize(("experts", "k"), [(1, 1), (4, 1), (4, 3)])
def test_every_choice_of_a_real_token_counts_and_probabilities_have_the_gradient(experts, k):
  scopes, tokens = 3, 10
  rng = np.random.default_rng(0)
  probs = rng.dirichlet(np.ones(experts), (scopes, tokens)).astype(np.float32)
  mask = rng.random((scopes, tokens)) < 0.7
  mask[-1] = False
  load, loss, probs_bar = np.zeros((scopes, experts)), np.zeros(scopes), np.zeros(probs.shape)
  for s in range(scopes):
    real = [n for n in range(tokens) if mask[s, n]]
    for n in real:
      for e in np.argsort(-probs[s, n])[:k]:
        load[s, e] += 1
    for n in real:
      for e in range(experts):
        weight = experts * load[s, e] / (k * len(real)) / len(real)
        loss[s] += weight * probs[s, n, e]
        probs_bar[s, n, e] = weight
  real = jnp.asarray(mask, jnp.float32)

  def losses(probs):
    score_sum = (probs * real[..., None]).sum(axis=1)
    got = balance_loss(jnp.asarray(load, jnp.float32), score_sum, real.sum(axis=1))
    return got.sum(), got

  bar, got = jax.grad(losses, has_aux=True)(jnp.asarray(probs))
  np.testing.assert_allclose(got, loss, rtol=1e-5)
  np.testing.assert_allclose(bar, probs_bar, rtol=1e-5)
