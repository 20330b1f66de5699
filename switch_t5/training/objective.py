# SPDX-License-Identifier: Apache-2.0
"""The objective of every run: cross-entropy, z-loss and router losses, and a teacher's part if any."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import jax.numpy as jnp

from switch_t5 import batch as features
from switch_t5.layers.row_key import RowKey
from switch_t5.losses.normalization import loss_normalizer, token_loss_weights
from switch_t5.losses.objective import LossConfig, SoftLosses, total_loss
from switch_t5.metrics.train_metrics import MetricSums
from switch_t5.model.switch_transformer import ModelOutput, SwitchTransformer
from switch_t5.types import Array, DeviceBatch, PyTree


class SoftTargets(Protocol):
  """What a teacher says of a microbatch."""

  def __call__(self, logits: Array, microbatch: DeviceBatch, frozen: PyTree) -> SoftLosses:
    """Returns the soft losses of the student's logits, float32 [rows * length, V].

    Args:
      logits: of the student.
      microbatch: features [rows, length].
      frozen: what the step was given beside state and batch: the teacher's parameters.
    """


@dataclasses.dataclass(frozen=True)
class CrossEntropyObjective:
  """An `Objective` of the train step.

  Attributes:
    loss: factors.
    capacity_factor: that of training or of evaluation; None for dropless.
    soft_targets: of a teacher, for distillation; None: the targets alone count.
  """

  loss: LossConfig
  capacity_factor: float | None
  soft_targets: SoftTargets | None = None

  def normalizer(self, batch: DeviceBatch) -> Array:
    """See `Objective`."""
    return loss_normalizer(
      self.loss.loss_normalizing_factor,
      batch[features.DECODER_LOSS_WEIGHTS],
      batch[features.DECODER_SEGMENT_IDS],
    )

  def __call__(
    self,
    model: SwitchTransformer,
    microbatch: DeviceBatch,
    *,
    key: RowKey | None,
    normalizer: Array,
    microbatch_fraction: float,
    frozen: PyTree = None,
  ) -> tuple[Array, MetricSums]:
    """See `Objective`."""
    output = model(microbatch, capacity_factor=self.capacity_factor, key=key)
    return self.of_output(
      output,
      microbatch,
      normalizer=normalizer,
      microbatch_fraction=microbatch_fraction,
      frozen=frozen,
    )

  def of_output(
    self,
    output: ModelOutput,
    microbatch: DeviceBatch,
    *,
    normalizer: Array,
    microbatch_fraction: float,
    frozen: PyTree = None,
  ) -> tuple[Array, MetricSums]:
    """Returns what `__call__` does, of what the model returned for the microbatch."""
    weights = microbatch[features.DECODER_LOSS_WEIGHTS]
    segment_ids = microbatch[features.DECODER_SEGMENT_IDS]
    in_loss = token_loss_weights(self.loss.loss_normalizing_factor, weights, segment_ids)
    soft = None
    if self.soft_targets is not None:
      soft = self.soft_targets(output.logits, microbatch, frozen)
    total, sums = total_loss(
      self.loss,
      logits=output.logits,
      targets=microbatch[features.DECODER_TARGET_TOKENS].reshape(-1),
      weights=weights.reshape(-1),
      loss_weights=in_loss.reshape(-1),
      normalizer=normalizer,
      load_balance_losses=output.router.load_balance_loss,
      router_z_losses=output.router.router_z_loss,
      microbatch_fraction=microbatch_fraction,
      soft=soft,
    )
    real_tokens = [
      (ids > 0).sum(dtype=jnp.float32)
      for ids in (microbatch[features.ENCODER_SEGMENT_IDS], segment_ids)
    ]
    return total, MetricSums(
      loss=total,
      **sums._asdict(),
      expert_load=output.router.expert_load,
      num_dropped=output.router.num_dropped,
      routed_tokens=output.router.num_tokens,
      router_entropy=output.router.entropy,
      router_confidence=output.router.confidence,
      num_tokens=jnp.stack(real_tokens).sum(),
    )
