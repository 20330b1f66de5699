# SPDX-License-Identifier: Apache-2.0
"""Clipping of gradients by their global norm, before an optimizer sees them."""

from __future__ import annotations

import optax

from switch_t5.errors import ConfigError


def clip_gradients(
  optimizer: optax.GradientTransformation, global_norm_clip_threshold: float | None
) -> optax.GradientTransformation:
  """Returns an optimizer that scales all gradients down to this L2 norm, taken over all of them.

  Pascanu et al., 2013. The experts' gradients count as all others do.

  Args:
    optimizer: what updates with the clipped gradients.
    global_norm_clip_threshold: the largest norm; None for no clipping.

  Raises:
    ConfigError: if the threshold is not positive.
  """
  if global_norm_clip_threshold is None:
    return optimizer
  if not global_norm_clip_threshold > 0.0:
    raise ConfigError(
      "global_norm_clip_threshold is not positive.",
      value=global_norm_clip_threshold,
      rule="a norm greater than 0, or None for no clipping",
    )
  return optax.chain(optax.clip_by_global_norm(global_norm_clip_threshold), optimizer)
