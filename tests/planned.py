# SPDX-License-Identifier: Apache-2.0
"""The paper's models, and steps of them to be planned."""

from __future__ import annotations

import dataclasses
import functools

import jax
import optax

from switch_t5.model.config import ModelConfig
from switch_t5.model.definition import define_model
from switch_t5.optim.adafactor import adafactor, num_batch_axes
from switch_t5.planning.step import StateArrays, Step, state_arrays
from switch_t5.sharding.mesh import MeshShape

T5_BASE = ModelConfig(
  vocab_size=32128,
  d_model=768,
  d_ff=3072,
  d_kv=64,
  num_heads=12,
  num_encoder_layers=12,
  num_decoder_layers=12,
)
SWITCH_BASE = dataclasses.replace(
  T5_BASE,
  num_experts=128,
  num_encoder_sparse_layers=6,
  num_decoder_sparse_layers=6,
  sequences_per_group=8,
)
SWITCH_C = dataclasses.replace(
  SWITCH_BASE,
  d_model=2080,
  d_ff=6144,
  num_heads=30,
  num_encoder_layers=15,
  num_decoder_layers=15,
  num_experts=2048,
  num_encoder_sparse_layers=15,
  num_decoder_sparse_layers=15,
  logits_via_embedding=False,
  sequences_per_group=4,
  train_capacity_factor=1.0,
  min_expert_capacity=2,
)


def step(model=SWITCH_BASE, mesh=(1, 64, 1), rows=2048, **changes) -> Step:
  """A train step of 512 and 114 tokens a row."""
  return Step("train", model, rows, (512, 114), MeshShape(*mesh), **changes)


@functools.cache
def arrays(model=SWITCH_BASE) -> StateArrays:
  """What a run with Adafactor keeps."""
  definition = define_model(model)
  axes = jax.tree.map(lambda _, names: num_batch_axes(names), definition.shapes, definition.axes)
  return state_arrays(definition, adafactor(optax.constant_schedule(1.0), batch_axes=axes))
