# SPDX-License-Identifier: Apache-2.0
"""What a step keeps in memory, as the compiled program says."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest

from switch_t5.batch import batch_spec
from switch_t5.losses.objective import LossConfig
from switch_t5.model.definition import define_model
from switch_t5.sharding.mesh import MeshShape, make_mesh
from switch_t5.training.objective import CrossEntropyObjective
from switch_t5.training.state import abstract_state
from switch_t5.training.train_step import build_train_step

VOCAB, BATCH_SIZE, LENGTH = 8064, 16, 64
LOGITS_BYTES = BATCH_SIZE * LENGTH * VOCAB * 4  # float32


@pytest.fixture(scope="module")
def memory(tiny_config):
  """Returns the memory analysis of a dense model's train step; logits are most of it."""

  @functools.cache
  def memory(*, num_microbatches=1, **changes):
    dense = {"num_experts": 0, "num_encoder_sparse_layers": 0, "num_decoder_sparse_layers": 0}
    config = dataclasses.replace(
      tiny_config, vocab_size=VOCAB, sequences_per_group=None, **dense, **changes
    )
    definition, optimizer, mesh = define_model(config), optax.sgd(0.1), make_mesh(MeshShape())
    rows = (num_microbatches, BATCH_SIZE // num_microbatches)
    batch = {
      name: jax.ShapeDtypeStruct(spec.shape, spec.dtype)
      for name, spec in batch_spec(rows, LENGTH, LENGTH).items()
    }
    with jax.set_mesh(mesh):
      abstract = abstract_state(definition, optimizer, mesh)
      step = build_train_step(
        definition,
        optimizer,
        CrossEntropyObjective(LossConfig(), 1.25),
        abstract,
        num_microbatches=num_microbatches,
      )
      return step.lower(abstract, batch, np.uint32(0)).compile().memory_analysis()

  return memory


def test_logits_are_held_in_float32_once(memory):
  """Their gradient takes their place."""
  assert LOGITS_BYTES < memory(remat="full").temp_size_in_bytes < 1.5 * LOGITS_BYTES


def test_the_new_state_takes_the_place_of_the_old(memory):
  found = memory(remat="full")
  assert found.alias_size_in_bytes > 0.99 * 4 * VOCAB * 16  # the table alone, at the least
  assert found.output_size_in_bytes - found.alias_size_in_bytes < 1e5  # metrics


def test_accumulation_lowers_the_peak(memory):
  whole, parts = (memory(remat="full", num_microbatches=n).temp_size_in_bytes for n in (1, 4))
  assert parts < 0.5 * whole


def test_rematerialisation_lowers_the_peak_of_a_deep_stack(memory):
  deep = {"num_encoder_layers": 8, "num_decoder_layers": 8}
  kept, partly, recomputed = (
    memory(**deep, remat=r).temp_size_in_bytes for r in ("none", "attention", "full")
  )
  assert recomputed - LOGITS_BYTES < 0.25 * (kept - LOGITS_BYTES)
  assert recomputed < partly < kept
