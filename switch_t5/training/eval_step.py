# SPDX-License-Identifier: Apache-2.0
"""The evaluation step: the same objective with evaluation's capacity, no noise, no gradients."""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from switch_t5.metrics.train_metrics import MetricSums
from switch_t5.model.definition import ModelDefinition
from switch_t5.training.train_step import Objective
from switch_t5.types import DeviceBatch, PyTree

EvalStep = Callable[[PyTree, DeviceBatch], MetricSums]


def build_eval_step(
  definition: ModelDefinition, objective: Objective, mesh: Mesh, num_microbatches: int
) -> EvalStep:
  """Compiles lazily: (params, batch [num_microbatches, rows, length]) -> sums."""

  def eval_step(params: PyTree, batch: DeviceBatch) -> MetricSums:
    model = definition.build(params)
    normalizer = objective.normalizer(batch)

    def microbatch_sums(microbatch: DeviceBatch) -> MetricSums:
      _, sums = objective(
        model,
        microbatch,
        key=None,
        normalizer=normalizer,
        microbatch_fraction=1.0 / num_microbatches,
      )
      return sums

    sums = jax.lax.map(microbatch_sums, batch)
    return jax.tree.map(lambda x: x.sum(axis=0), sums)

  return jax.jit(eval_step, out_shardings=NamedSharding(mesh, PartitionSpec()))
