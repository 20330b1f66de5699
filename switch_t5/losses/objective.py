# SPDX-License-Identifier: Apache-2.0
"""The loss that is optimised: cross-entropy, z-loss and the router's losses."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp

from switch_t5.errors import ConfigError, suggest
from switch_t5.losses.cross_entropy import cross_entropy_with_z_loss, target_logits
from switch_t5.losses.normalization import NORMALIZERS, NUM_REAL_TARGET_TOKENS
from switch_t5.types import Array

LOAD_BALANCE_REDUCTIONS = ("sum", "mean")


@dataclasses.dataclass(frozen=True)
class LossConfig:
  """Factors of the loss.

  Attributes:
    z_loss: of (log Z)^2 of the vocabulary's softmax.
    load_balance_factor: alpha of the load-balance loss (paper eq. 4).
    router_z_loss_factor: of the router's z-loss (ST-MoE eq. 5; 1e-3 there).
    load_balance_reduction: over sparse layers, of both losses of the router: "sum" as the paper
      says, "mean" as T5X does.
    label_smoothing: of training's cross-entropy; evaluation has none.
    loss_normalizing_factor: what the sum of token losses is divided by. "NUM_REAL_TARGET_TOKENS" (sum
      of the weights), "NUM_TOTAL_TARGET_TOKENS" (padding too), "AVERAGE_PER_SEQUENCE" (every
      sequence counts the same), a number, or None for 1. The router's losses are not divided.
  """

  z_loss: float = 1e-4
  load_balance_factor: float = 1e-2
  router_z_loss_factor: float = 0.0
  load_balance_reduction: str = "sum"
  label_smoothing: float = 0.0
  loss_normalizing_factor: str | float | None = NUM_REAL_TARGET_TOKENS

  def __post_init__(self):
    for name in ("z_loss", "load_balance_factor", "router_z_loss_factor"):
      value = getattr(self, name)
      if not 0.0 <= value < float("inf"):
        raise ConfigError(
          f"{name} is not a factor of a loss.",
          value=value,
          rule=f"{name} is a finite number, 0 or more",
          remedy=f"set {name} to 0 to leave this loss out",
        )
    if self.load_balance_reduction not in LOAD_BALANCE_REDUCTIONS:
      raise ConfigError(
        "Unknown load_balance_reduction.",
        value=repr(self.load_balance_reduction),
        rule=f"one of {', '.join(LOAD_BALANCE_REDUCTIONS)}",
        remedy=suggest(str(self.load_balance_reduction), LOAD_BALANCE_REDUCTIONS),
      )
    if not 0.0 <= self.label_smoothing < 1.0:
      raise ConfigError(
        "label_smoothing is not valid.",
        value=self.label_smoothing,
        rule="a probability, at least 0, less than 1",
      )
    if not _is_normalizer(self.loss_normalizing_factor):
      raise ConfigError(
        "loss_normalizing_factor is not valid.",
        value=repr(self.loss_normalizing_factor),
        rule=f"one of {', '.join(NORMALIZERS)}, a number greater than 0, or None",
        remedy=suggest(str(self.loss_normalizing_factor), NORMALIZERS),
      )


def _is_normalizer(factor: str | float | None) -> bool:
  if factor is None or isinstance(factor, str):
    return factor is None or factor in NORMALIZERS
  return 0.0 < factor < float("inf")


class SoftLosses(NamedTuple):
  """A teacher's part of the loss (section 4.2 of the paper).

  Attributes:
    cross_entropy: float32 [tokens], with the teacher's probabilities.
    fraction: s: the token's loss is (1 - s) * hard + s * temperature^2 * soft, and the z-loss whole.
    temperature: tau, at which the probabilities are.
  """

  cross_entropy: Array
  fraction: float
  temperature: float


class LossSums(NamedTuple):
  """What the loss is made of; float32 [] each. Those of microbatches add up to the batch's.

  Attributes:
    cross_entropy: sum of weight * cross-entropy over tokens.
    z_loss: sum of weight * z over tokens, the factor included.
    correct: sum of the weights of tokens whose target has the greatest logit (or shares it).
    weight: sum of weights.
    load_balance_loss: as it enters the loss.
    router_z_loss: as it enters the loss.
    soft_cross_entropy: sum of weight * cross-entropy with the teacher; None without one.
  """

  cross_entropy: Array
  z_loss: Array
  correct: Array
  weight: Array
  load_balance_loss: Array
  router_z_loss: Array
  soft_cross_entropy: Array | None = None


def total_loss(
  config: LossConfig,
  *,
  logits: Array,
  targets: Array,
  weights: Array,
  loss_weights: Array,
  normalizer: Array,
  load_balance_losses: Array,
  router_z_losses: Array,
  microbatch_fraction: float,
  soft: SoftLosses | None = None,
) -> tuple[Array, LossSums]:
  """Returns a microbatch's part of the loss, float32 [], and its sums.

  Token losses are divided by one count, that of the whole batch, and the router's losses count by
  the microbatch's fraction. So losses, and gradients, of all microbatches add up to those of the
  batch, also where microbatches hold unequal numbers of real tokens.

  Args:
    config: factors.
    logits: float32 [tokens, V].
    targets: int32 [tokens].
    weights: float32 [tokens], 0 on padding.
    loss_weights: float32 [tokens], with which the token losses enter the loss (`token_loss_weights`).
    normalizer: float32 [], of the whole step (`loss_normalizer`).
    load_balance_losses: float32 [sparse layers], means over groups, without factor; may be empty.
    router_z_losses: float32 [sparse layers], likewise.
    microbatch_fraction: 1 / number of microbatches.
    soft: of a teacher, normalised as the hard loss is.
  """
  cross_entropy, z = cross_entropy_with_z_loss(
    logits, targets, config.z_loss, config.label_smoothing
  )
  # The loss has both sides already; an argmax would read the logits once more, and slowly on CPU.
  is_correct = target_logits(logits, targets) >= logits.max(axis=-1)
  over_layers = jnp.sum if config.load_balance_reduction == "sum" else _mean_or_zero
  sums = LossSums(
    cross_entropy=(weights * cross_entropy).sum(),
    z_loss=(weights * z).sum(),
    correct=jnp.where(is_correct, weights, 0.0).sum(),
    weight=weights.sum(),
    load_balance_loss=(
      config.load_balance_factor * microbatch_fraction * over_layers(load_balance_losses)
    ),
    router_z_loss=config.router_z_loss_factor * microbatch_fraction * over_layers(router_z_losses),
    soft_cross_entropy=None if soft is None else (weights * soft.cross_entropy).sum(),
  )
  of_tokens = cross_entropy
  if soft is not None:
    factor = soft.fraction * soft.temperature**2
    of_tokens = (1.0 - soft.fraction) * cross_entropy + factor * soft.cross_entropy
  loss = (loss_weights * (of_tokens + z)).sum() / normalizer
  return loss + sums.load_balance_loss + sums.router_z_loss, sums


def _mean_or_zero(layers):
  return layers.sum() / max(layers.size, 1)
