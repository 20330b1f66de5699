# SPDX-License-Identifier: Apache-2.0
"""Steps whose loss or gradients are not finite, or beyond a limit: stop, skip them, or go back.

However a batch is left out, the run ends as one whose data never had it: steps count updates, so
that the learning rate, the noise and TRAIN_STEPS know nothing of it.
"""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp

from switch_t5.errors import ConfigError, suggest
from switch_t5.types import Array

STOP, SKIP, GO_BACK = ACTIONS = ("stop", "skip", "go_back")
_GREATEST = float(jnp.finfo(jnp.float32).max)  # what is above it is not finite


@dataclasses.dataclass(frozen=True)
class BadSteps:
  """What is done about a step whose loss or gradients are not finite, or above a limit.

  Attributes:
    action: "stop" ends the run with exit code 4; "skip" leaves parameters and optimizer as they
      were; "go_back" goes on from the newest checkpoint, without the batch.
    most: batches that are left out in all; one more ends the run.
    max_loss: the limit of the loss; None: any finite one is good.
    max_gradient_norm: that of the norm of all gradients, before any clipping (in the log
      train/gradient_norm); None: any finite one is good.
  """

  action: str = STOP
  most: int = 10
  max_loss: float | None = None
  max_gradient_norm: float | None = None

  def __post_init__(self):
    if self.action not in ACTIONS:
      raise ConfigError(
        "BadSteps.action is not valid.",
        value=repr(self.action),
        rule=f"one of {', '.join(map(repr, ACTIONS))}",
        remedy=suggest(str(self.action), ACTIONS),
      )
    if type(self.most) is not int or self.most < 0:
      raise ConfigError(
        "BadSteps.most is not valid.", value=repr(self.most), rule="a whole number, at least 0"
      )
    for name in ("max_loss", "max_gradient_norm"):
      value = getattr(self, name)
      if value is not None and not (type(value) in (int, float) and 0 < value < math.inf):
        raise ConfigError(
          f"BadSteps.{name} is not valid.", value=repr(value), rule="a number above 0, or None"
        )

  def is_bad(self, loss: Array, gradient_norms: dict[str, Array]) -> Array:
    """Returns whether a step is bad, bool []; it compares so that NaN is.

    Args:
      loss: float32 [].
      gradient_norms: of `layer_norms`.
    """
    norm = jnp.sqrt(sum(jnp.square(norms).sum() for norms in gradient_norms.values()))
    good = loss <= (self.max_loss or _GREATEST)
    return ~(good & (norm <= (self.max_gradient_norm or _GREATEST)))
