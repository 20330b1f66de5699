# SPDX-License-Identifier: Apache-2.0
"""The hidden activation of feed-forward layers and experts, plain or gated."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from switch_t5.types import Array

ACTIVATIONS = {
  "relu": jax.nn.relu,
  "gelu": lambda x: jax.nn.gelu(x, approximate=True),  # T5 1.1's is the tanh approximation
  "linear": lambda x: x,
}


def projection_names(activations: Sequence[str]) -> tuple[str, ...]:
  """Returns the names of the input projections: wi, or wi_0, wi_1 where they are multiplied."""
  return ("wi",) if len(activations) == 1 else tuple(f"wi_{i}" for i in range(len(activations)))


def activate(projected: Sequence[Array], activations: Sequence[str]) -> Array:
  """Returns the product of each projection after its activation; ("gelu", "linear") is GEGLU.

  Shazeer, GLU Variants Improve Transformer, 2020, eq. 6.
  """
  hidden = ACTIVATIONS[activations[0]](projected[0])
  for name, projection in zip(activations[1:], projected[1:], strict=True):
    hidden = hidden * ACTIVATIONS[name](projection)
  return hidden
