# SPDX-License-Identifier: Apache-2.0
"""Which second choices of top-2 are kept: Mesh-TensorFlow's policies, of the paper's MoE baseline."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from switch_t5.layers.moe.dispatch import Routing
from switch_t5.types import PRNGKey

SECOND_POLICIES = ("all", "none", "threshold", "random")


def second_place(
  routing: Routing, policy: str, threshold: float, keys: PRNGKey | None, num_experts: int
) -> Routing:
  """Gives up second choices of little weight (GShard, section 2.2; Table 1's MoE).

  Args:
    routing: k = 2; the policies look at its gates as they are.
    policy: "all" are kept; "none"; by "threshold", those with a gate over it; by "random" chance,
      with probability gate / threshold.
    threshold: 0.2 in Mesh-TensorFlow.
    keys: [G]; without them "random" is as "threshold".
    num_experts: E, which says that there is no choice.
  """
  if policy == "all":
    return routing
  gate = jax.lax.stop_gradient(routing.gate[..., 1])
  if policy == "none":
    kept = jnp.zeros_like(gate, bool)
  elif policy == "threshold" or keys is None:
    kept = gate > threshold
  else:
    # Another stream than that of sampled choices, which would be the same bits.
    keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
    draw = jax.vmap(lambda key: jax.random.uniform(key, gate.shape[1:]))(keys)
    kept = draw < gate / threshold
  kept = jnp.stack([jnp.ones_like(kept), kept], axis=-1)
  return Routing(
    jnp.where(kept, routing.expert_index, num_experts), jnp.where(kept, routing.gate, 0.0)
  )
