# SPDX-License-Identifier: Apache-2.0
"""A teacher's part of the loss (section 4.2 of the paper): of a model in memory, or of what it said.

The teacher is asked as a model is that answers: it drops no token, has no dropout and no jitter.
"""

from __future__ import annotations

import dataclasses

import jax

from switch_t5 import batch as features
from switch_t5.losses.objective import SoftLosses
from switch_t5.losses.soft_cross_entropy import soft_cross_entropy, top_k_cross_entropy
from switch_t5.model.definition import ModelDefinition
from switch_t5.types import Array, DeviceBatch, PyTree


@dataclasses.dataclass(frozen=True)
class LiveTeacher:
  """Asks a model in each step; a `SoftTargets` whose `frozen` are the model's parameters.

  Attributes:
    definition: of the teacher.
    fraction: s, in [0, 1], the teacher's part of the loss.
    temperature: tau, above 0.
    num_ids: of the vocabulary, see `soft_cross_entropy`.
  """

  definition: ModelDefinition
  fraction: float
  temperature: float
  num_ids: int

  def __call__(self, logits: Array, microbatch: DeviceBatch, frozen: PyTree) -> SoftLosses:
    """See `SoftTargets`."""
    said = teacher_logits(self.definition, frozen, microbatch)
    losses = soft_cross_entropy(logits, said, self.temperature, self.num_ids)
    return SoftLosses(losses, self.fraction, self.temperature)


@dataclasses.dataclass(frozen=True)
class CachedTeacher:
  """Takes a teacher's greatest probabilities from the batch; a `SoftTargets` without `frozen`.

  Attributes: those of `LiveTeacher`.
  """

  fraction: float
  temperature: float
  num_ids: int

  def __call__(self, logits: Array, microbatch: DeviceBatch, frozen: PyTree) -> SoftLosses:
    """See `SoftTargets`."""
    of_tokens = lambda name: microbatch[name].reshape(logits.shape[0], -1)  # noqa: E731
    losses = top_k_cross_entropy(
      logits,
      of_tokens(features.TEACHER_IDS),
      of_tokens(features.TEACHER_PROBS),
      self.temperature,
      self.num_ids,
    )
    return SoftLosses(losses, self.fraction, self.temperature)


def teacher_logits(definition: ModelDefinition, params: PyTree, microbatch: DeviceBatch) -> Array:
  """Returns a teacher's logits for the targets of a microbatch, float32 [rows * length, V].

  Args:
    definition: of the teacher.
    params: of the teacher, of any floating type.
    microbatch: features [rows, length].
  """
  return definition.build(jax.lax.stop_gradient(params))(microbatch, capacity_factor=None).logits
