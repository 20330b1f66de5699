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


def as_distribution(logits: Array) -> Array:
  """Returns sigmoid scores over their sum over experts (DeepSeek-V3, eq. 19), for the losses.

  By way of logarithms: where all scores of a token are tiny their quotient has no finite gradient.
  """
  return jax.nn.softmax(jax.nn.log_sigmoid(logits), axis=-1)
