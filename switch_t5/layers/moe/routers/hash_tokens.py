# SPDX-License-Identifier: Apache-2.0
"""Hash routing: a token's expert follows from its id (Roller et al. 2021, 2106.04426)."""

from __future__ import annotations

import jax.numpy as jnp

from switch_t5.layers.moe.dispatch import Routing
from switch_t5.types import Array


def mixed(numbers: Array) -> Array:
  """Returns uint32, each number mixed by MurmurHash3's finaliser (Appleby, public domain)."""
  h = numbers.astype(jnp.uint32)
  h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
  h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
  return h ^ (h >> 16)


def by_hash(numbers: Array, num_experts: int) -> Routing:
  """Sends each token to the expert that its number hashes to, with gate 1.

  Args:
    numbers: int32 [G, N], of tokens: their ids (the paper's random hash).
    num_experts: E.
  """
  expert_index = (mixed(numbers) % jnp.uint32(num_experts)).astype(jnp.int32)[..., None]
  return Routing(expert_index, jnp.ones(expert_index.shape, jnp.float32))
