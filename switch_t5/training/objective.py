# SPDX-License-Identifier: Apache-2.0
"""The objective of pretraining and fine-tuning: cross-entropy, z-loss and router losses."""

from __future__ import annotations

import jax.numpy as jnp

from switch_t5 import batch as features
from switch_t5.losses.objective import LossConfig, total_loss
from switch_t5.metrics.train_metrics import MetricSums
from switch_t5.model.switch_transformer import SwitchTransformer
from switch_t5.training.train_step import Objective
from switch_t5.types import Array, DeviceBatch, PRNGKey


def cross_entropy_objective(loss: LossConfig, capacity_factor: float) -> Objective:
  """Makes the objective; `capacity_factor` is that of training or of evaluation."""

  def objective(
    model: SwitchTransformer,
    microbatch: DeviceBatch,
    *,
    key: PRNGKey | None,
    weight_sum: Array,
    microbatch_fraction: float,
  ) -> tuple[Array, MetricSums]:
    output = model(microbatch, capacity_factor=capacity_factor, key=key)
    total, sums = total_loss(
      loss,
      logits=output.logits,
      targets=microbatch[features.DECODER_TARGET_TOKENS].reshape(-1),
      weights=microbatch[features.DECODER_LOSS_WEIGHTS].reshape(-1),
      global_weight_sum=weight_sum,
      load_balance_losses=output.router.load_balance_loss,
      router_z_losses=output.router.router_z_loss,
      microbatch_fraction=microbatch_fraction,
    )
    segment_ids = (
      microbatch[features.ENCODER_SEGMENT_IDS],
      microbatch[features.DECODER_SEGMENT_IDS],
    )
    return total, MetricSums(
      loss=total,
      **sums._asdict(),
      expert_load=output.router.expert_load,
      num_dropped=output.router.num_dropped,
      num_tokens=jnp.stack([(ids > 0).sum(dtype=jnp.float32) for ids in segment_ids]).sum(),
    )

  return objective
