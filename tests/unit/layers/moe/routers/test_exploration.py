# SPDX-License-Identifier: Apache-2.0
"""Noise of exploration: its gradients, and that a group's noise does not depend on the others."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from switch_t5.layers.moe.routers.exploration import input_dropout, jitter, sampling_noise
from switch_t5.layers.row_key import RowKey


@pytest.mark.parametrize("noise", [jitter, input_dropout])
def test_the_gradient_of_noise_is_the_factor_it_multiplied_by(noise):
  x = jnp.asarray(np.random.default_rng(0).normal(size=(20, 8)), jnp.float32)
  y, vjp = jax.vjp(lambda x: noise(x, 0.3, RowKey(jax.random.key(1)), x.shape[0]), x)
  (bar,) = vjp(jnp.ones_like(y))
  np.testing.assert_allclose(bar, np.asarray(y) / np.asarray(x), rtol=1e-5)


def test_a_groups_sampled_experts_follow_from_its_key_alone():
  logits = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8, 4)), jnp.float32)
  keys = jax.random.split(jax.random.key(0), 3)
  together = sampling_noise(logits, keys)
  for g in range(3):
    alone = sampling_noise(logits[g : g + 1], keys[g : g + 1])
    np.testing.assert_array_equal(alone[0], together[g])
