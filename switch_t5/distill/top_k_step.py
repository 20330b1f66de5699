# SPDX-License-Identifier: Apache-2.0
"""Asks a teacher for its k greatest probabilities of each target of a batch."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from switch_t5.batch import DECODER_SEGMENT_IDS
from switch_t5.distill.soft_targets import teacher_logits
from switch_t5.distill.teacher_cache import Contents
from switch_t5.losses.soft_cross_entropy import top_k_probabilities
from switch_t5.model.definition import ModelDefinition
from switch_t5.types import Array, DeviceBatch, PyTree

TopKStep = Callable[[PyTree, DeviceBatch], tuple[Array, Array]]


def build_top_k_step(definition: ModelDefinition, contents: Contents, mesh: Mesh) -> TopKStep:
  """Compiles lazily: (params, batch [microbatches, rows, length]) -> ids, probabilities.

  They are [microbatches * rows, T, k], in the types of `contents`, whole on every device, and 0 on
  padding.
  """
  ids_dtype, probs_dtype = (contents.record[name].base for name in ("ids", "probs"))

  def of_microbatch(params: PyTree, microbatch: DeviceBatch) -> tuple[Array, Array]:
    logits = teacher_logits(definition, params, microbatch)
    ids, probs = top_k_probabilities(logits, contents.k, contents.temperature, contents.num_ids)
    real = microbatch[DECODER_SEGMENT_IDS].reshape(-1, 1) > 0
    return (
      jnp.where(real, ids, 0).astype(ids_dtype),
      jnp.where(real, probs, 0).astype(probs_dtype),
    )

  def top_k_step(params: PyTree, batch: DeviceBatch) -> tuple[Array, Array]:
    ids, probs = jax.lax.map(lambda microbatch: of_microbatch(params, microbatch), batch)
    shape = (-1, contents.length, contents.k)
    return ids.reshape(shape), probs.reshape(shape)

  return jax.jit(top_k_step, out_shardings=NamedSharding(mesh, PartitionSpec()))
