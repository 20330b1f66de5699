# SPDX-License-Identifier: Apache-2.0
"""Balance without a loss: a bias that moves by the experts' load."""

from __future__ import annotations

import jax.numpy as jnp

from switch_t5.types import Array


def updated_bias(bias: Array, load: Array, rate: float) -> Array:
  """Returns the bias, up by `rate` where an expert had less than the mean load, down where more.

  Experts are selected by score + bias; gates are raw scores (Wang et al. 2024, 2408.15664, algorithm
  1; DeepSeek-V3, section 2.1.2).

  Args:
    bias: float32 [..., E].
    load: float32 [..., E], choices of each expert in a step.
    rate: gamma.
  """
  return bias + rate * jnp.sign(load.mean(axis=-1, keepdims=True) - load)
