# SPDX-License-Identifier: Apache-2.0
"""No-token-left-behind: a token whose expert is full tries its next best ones (paper App. B)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from switch_t5.layers.moe.dispatch import Routing, count_before
from switch_t5.types import Array


def no_token_left_behind(
  scores: Array, routing: Routing, mask: Array, capacity: int, num_tries: int
) -> Routing:
  """Returns the experts that have a place for the tokens.

  In each round the tokens without a place try the best expert they have not tried, in token order,
  behind those that are placed already. A token that finds no place has no expert. The gate is the
  score of the expert that took it.

  Args:
    scores: float32 [G, N, E].
    routing: k = 1, the experts of the first round.
    mask: bool [G, N].
    capacity: C.
    num_tries: rounds; 4 in Mesh-TensorFlow.
  """
  groups, _, num_experts = scores.shape
  rest = jax.lax.stop_gradient(scores)
  group = jnp.arange(groups, dtype=jnp.int32)[:, None]
  taken = jnp.zeros((groups, num_experts + 1), jnp.int32)  # the last counts those without a try
  placed = jnp.full(mask.shape, num_experts, jnp.int32)
  choice = routing.expert_index[..., 0]
  for round_number in range(num_tries):
    if round_number:
      choice = jnp.argmax(rest, axis=-1).astype(jnp.int32)
    wanting = mask & (placed == num_experts)
    wanted = jnp.where(wanting, choice, num_experts)
    place = count_before(wanted) + jnp.take_along_axis(taken, wanted, axis=1)
    fits = wanting & (place < capacity)
    placed = jnp.where(fits, choice, placed)
    taken = taken.at[group, jnp.where(fits, choice, num_experts)].add(1)
    tried = jax.lax.broadcasted_iota(jnp.int32, rest.shape, 2) == choice[..., None]
    rest = jnp.where(tried, -jnp.inf, rest)
  expert_index = placed[..., None]
  gate = jnp.take_along_axis(scores, jnp.minimum(expert_index, num_experts - 1), axis=-1)
  return Routing(expert_index, jnp.where(expert_index < num_experts, gate, 0.0))
