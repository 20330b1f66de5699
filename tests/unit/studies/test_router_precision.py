# SPDX-License-Identifier: Apache-2.0
"""What a bfloat16 router breaks, on inputs made for it."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from switch_t5.studies.router_precision import RouterInputs, choices, collisions, measure


def test_two_logits_that_bfloat16_cannot_tell_apart_flip_the_choice():
  inputs = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
  kernel = np.array([[1.0, 1.001], [2.0, 1.0]], np.float32)  # 1.001 is 1 in bfloat16
  assert choices(inputs, kernel, jnp.float32).tolist() == [1, 0]
  assert choices(inputs, kernel, jnp.bfloat16).tolist() == [0, 0]
  broken = measure([RouterInputs(inputs, kernel)], [1, 2, 4])
  assert (broken.tokens, broken.flips_float32, broken.flips_bfloat16) == (2, 0, 1)
  assert broken.routed == {1: 2, 2: 2}  # there is no group of 4


def test_places_collide_beyond_256_tokens_of_one_expert():
  assert collisions(np.repeat([0, 1], 256), 2) == 0
  # 0 to 256 are exact; above, only even numbers are, and ties round to a multiple of 4.
  exact = np.arange(512)
  rounded = np.asarray(jnp.asarray(exact).astype(jnp.bfloat16)).astype(int)
  alone = sum((rounded == place).sum() == 1 for place in rounded)
  assert collisions(np.zeros(512, int), 1) == 512 - alone > 0
