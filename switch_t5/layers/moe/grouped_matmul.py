# SPDX-License-Identifier: Apache-2.0
"""A matmul of rows that are sorted by expert."""

from __future__ import annotations

import jax

from switch_t5.types import Array


def grouped_matmul(x: Array, kernel: Array, group_sizes: Array) -> Array:
  """Returns [R, out] for x [R, in], kernel [E, in, out] and int32 [E] rows of each expert."""
  return jax.lax.ragged_dot(x, kernel, group_sizes)
