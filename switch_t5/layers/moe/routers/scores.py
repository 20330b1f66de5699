# SPDX-License-Identifier: Apache-2.0
"""From logits to scores."""

from __future__ import annotations

import jax

from switch_t5.types import Array

SCORES = ("softmax", "sigmoid")


def router_scores(logits: Array, kind: str) -> Array:
  """Returns float32 scores of the shape of `logits`, [..., E].

  Args:
    logits: float32 [..., E].
    kind: "softmax" over experts (paper eq. 1), or "sigmoid" of each by itself (DeepSeek-V3,
      2412.19437, eq. 15).
  """
  return jax.nn.softmax(logits, axis=-1) if kind == "softmax" else jax.nn.sigmoid(logits)


def as_distribution(scores: Array) -> Array:
  """Returns scores over their sum over experts (DeepSeek-V3, eq. 19), which losses are made of."""
  return scores / scores.sum(axis=-1, keepdims=True)
