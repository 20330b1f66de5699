# SPDX-License-Identifier: Apache-2.0
"""Initialisers of the Switch paper (section 2.4)."""

from __future__ import annotations

import math

import jax

from switch_t5.types import Array, PRNGKey


def truncated_normal(key: PRNGKey, shape: tuple[int, ...], scale: float, fan_in: int) -> Array:
  """Draws float32 from a normal of sigma = sqrt(scale / fan_in), redrawn beyond 2 sigma.

  Sigma is taken literally, as in Mesh-TensorFlow: it is not corrected for what truncation removes.

  Args:
    key: the key.
    shape: of the result; leading expert axes are no part of the fan-in.
    scale: s of the paper: 0.1 for Switch models, 1.0 for dense ones (Table 3).
    fan_in: inputs to one output unit.
  """
  return jax.random.truncated_normal(key, -2.0, 2.0, shape) * math.sqrt(scale / fan_in)
