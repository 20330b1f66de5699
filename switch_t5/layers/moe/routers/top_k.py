# SPDX-License-Identifier: Apache-2.0
"""Each token chooses its k best experts."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from switch_t5.layers.moe.dispatch import Routing
from switch_t5.types import Array

EPSILON = 1e-9  # Mesh-TensorFlow's, in the sum of gates


def top_k(scores: Array, k: int, selection: Array | None = None) -> Routing:
  """Chooses by `selection`; the gate is the raw score. With k = 1 a Switch layer (eq. 1-2).

  A tie goes to the first expert. No gradient flows through the choice.

  Args:
    scores: float32 [G, N, E].
    k: choices of a token (Shazeer et al. 2017, 1701.06538).
    selection: float32 [G, N, E], scores with a bias or noise; None: the scores.
  """
  selection = scores if selection is None else selection
  if k == 1:  # several times faster than a partial sort
    expert_index = jnp.argmax(selection, axis=-1, keepdims=True)
  else:
    _, expert_index = jax.lax.top_k(jax.lax.stop_gradient(selection), k)
  gate = jnp.take_along_axis(scores, expert_index, axis=-1)
  return Routing(expert_index.astype(jnp.int32), gate)


def renormalized(routing: Routing) -> Routing:
  """Makes a token's gates sum to 1 (GShard, 2006.16668, algorithm 1; DeepSeek-V3, eq. 13)."""
  total = routing.gate.sum(axis=-1, keepdims=True)
  return routing._replace(gate=routing.gate / (total + EPSILON))
