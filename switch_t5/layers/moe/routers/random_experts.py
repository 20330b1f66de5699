# SPDX-License-Identifier: Apache-2.0
"""Random routing: a control that knows nothing of the token."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from switch_t5.layers.moe.dispatch import Routing
from switch_t5.layers.moe.routers.hash_tokens import by_hash
from switch_t5.types import Array, PRNGKey


def random_experts(keys: PRNGKey | None, positions: Array, num_experts: int) -> Routing:
  """Sends each token to a uniformly drawn expert, with gate 1.

  Without keys the expert follows from the token's position in its sequence alone, so that it does
  not depend on the batch.

  Args:
    keys: [G], or None.
    positions: int32 [G, N].
    num_experts: E.
  """
  if keys is None:
    return by_hash(positions, num_experts)
  shape = positions.shape[1:]
  draw = jax.vmap(lambda key: jax.random.randint(key, shape, 0, num_experts, jnp.int32))(keys)
  return Routing(draw[..., None], jnp.ones((*draw.shape, 1), jnp.float32))
