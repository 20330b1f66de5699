# SPDX-License-Identifier: Apache-2.0
"""The evaluation step: the same objective with evaluation's capacity, no noise, no gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from switch_t5.metrics.train_metrics import MetricSums
from switch_t5.model.definition import ModelDefinition
from switch_t5.training.objective import CrossEntropyObjective
from switch_t5.types import Array, DeviceBatch, PyTree

MOST_TAKEN = 2**14


class Evaluated(NamedTuple):
  """What a batch evaluates to, on every device.

  Attributes:
    sums: over all its microbatches.
    taken: the first `MOST_TAKEN` choices of each router in the first microbatch, the encoder's and
      the decoder's routers: int32 [R, n, 2], see `RouterReport`. A sample: all of them would be
      gathered from all devices.
  """

  sums: MetricSums
  taken: tuple[Array | None, ...]


EvalStep = Callable[[PyTree, DeviceBatch], Evaluated]


def build_eval_step(
  definition: ModelDefinition, objective: CrossEntropyObjective, mesh: Mesh, num_microbatches: int
) -> EvalStep:
  """Compiles lazily: (params, batch [num_microbatches, rows, length]) -> sums, and choices."""

  def eval_step(params: PyTree, batch: DeviceBatch) -> Evaluated:
    model = definition.build(params)
    normalizer = objective.normalizer(batch)

    def evaluate(microbatch: DeviceBatch) -> Evaluated:
      output = model(microbatch, capacity_factor=objective.capacity_factor)
      _, sums = objective.of_output(
        output,
        microbatch,
        normalizer=normalizer,
        microbatch_fraction=1.0 / num_microbatches,
      )
      return Evaluated(sums, output.taken)

    of_parts = jax.lax.map(evaluate, batch)
    return Evaluated(
      jax.tree.map(lambda x: x.sum(axis=0), of_parts.sums),
      jax.tree.map(lambda x: x[0, :, :MOST_TAKEN], of_parts.taken),
    )

  return jax.jit(eval_step, out_shardings=NamedSharding(mesh, PartitionSpec()))
