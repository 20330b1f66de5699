# SPDX-License-Identifier: Apache-2.0
"""AdamW (Loshchilov & Hutter, 2019), with decay of matrices only."""

from __future__ import annotations

import jax
import optax

from switch_t5.optim.clipping import clip_gradients
from switch_t5.types import PyTree


def adamw(
  learning_rate: optax.Schedule,
  *,
  batch_axes: PyTree,
  b1: float = 0.9,
  b2: float = 0.999,
  epsilon: float = 1e-8,
  weight_decay: float = 0.01,
  global_norm_clip_threshold: float | None = None,
) -> optax.GradientTransformation:
  """Makes the optimizer; its state, two moments per parameter, is float32.

  The first update takes `learning_rate(0)`, as Adafactor's does. Norms' scales are not decayed.

  Args:
    learning_rate: maps the step to the step size, which also scales the decay.
    batch_axes: for each leaf of the parameters, how many of its leading axes are stacked
      (`num_batch_axes`): what is left with fewer than two axes is not decayed.
    b1, b2: decay of the first and second moment.
    epsilon: added to the root of the second moment.
    weight_decay: lambda.
    global_norm_clip_threshold: see `clip_gradients`.
  """

  def is_decayed(params: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf, stacked: leaf.ndim - stacked >= 2, params, batch_axes)

  optimizer = optax.adamw(
    learning_rate, b1=b1, b2=b2, eps=epsilon, weight_decay=weight_decay, mask=is_decayed
  )
  return clip_gradients(optimizer, global_norm_clip_threshold)
