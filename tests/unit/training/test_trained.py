# SPDX-License-Identifier: Apache-2.0
"""What is not trained stays as it is, to the bit, on any mesh and under decay of weights."""

from __future__ import annotations

import functools

import jax
import numpy as np
import optax
import pytest

from switch_t5.batch import batch_spec
from switch_t5.errors import ConfigError
from switch_t5.losses.objective import LossConfig
from switch_t5.model.config import ModelConfig
from switch_t5.model.definition import define_model
from switch_t5.optim.adafactor import num_batch_axes
from switch_t5.optim.adamw import adamw
from switch_t5.sharding.mesh import MeshShape, make_mesh
from switch_t5.training.init import init_state
from switch_t5.training.objective import CrossEntropyObjective
from switch_t5.training.state import abstract_state
from switch_t5.training.train_step import build_train_step
from switch_t5.training.trained import trained_parameters

CONFIG = ModelConfig(
  vocab_size=128,
  d_model=16,
  d_ff=32,
  d_kv=4,
  num_heads=4,
  num_encoder_layers=1,
  num_decoder_layers=1,
  num_experts=4,
  num_encoder_sparse_layers=1,
  sequences_per_group=1,
  activation_dtype="float32",
)
DEFINITION = define_model(CONFIG)
STEPS = 2


@functools.cache
def train(trained: str, mesh_shape: tuple[int, int, int], microbatches: int):
  """Returns the parameters before and after, by path, and the gradients' norms; with AdamW's decay."""
  batch_axes = jax.tree.map(
    lambda _, axes: num_batch_axes(axes), DEFINITION.shapes, DEFINITION.axes
  )
  optimizer = adamw(optax.constant_schedule(0.01), batch_axes=batch_axes, weight_decay=0.5)
  mesh = make_mesh(MeshShape(*mesh_shape))
  rng = np.random.default_rng(0)
  spec = batch_spec((microbatches, 8 // microbatches), encoder_length=6, decoder_length=5)
  batch = {
    name: rng.integers(1, 128, leaf.shape, np.int32)
    if "tokens" in name
    else np.ones(leaf.shape, leaf.dtype)
    for name, leaf in spec.items()
  }
  with jax.set_mesh(mesh), jax.numpy_dtype_promotion("standard"):
    abstract = abstract_state(DEFINITION, optimizer, mesh)
    step = build_train_step(
      DEFINITION,
      optimizer,
      CrossEntropyObjective(LossConfig(), CONFIG.train_capacity_factor),
      abstract,
      num_microbatches=microbatches,
      trained=trained_parameters(DEFINITION, trained),
    )
    state = init_state(DEFINITION, optimizer, abstract, 0)
    before = by_path(jax.device_get(state.params))
    for _ in range(STEPS):
      state, metrics = step(state, batch, np.uint32(0))
    return before, by_path(jax.device_get(state.params)), jax.device_get(metrics.gradient_norms)


def by_path(params) -> dict[str, np.ndarray]:
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(params)
  }


def is_experts(name: str) -> bool:
  return "/expert/" in name


@pytest.mark.parametrize(
  ("trained", "mesh_shape", "microbatches"),
  [("experts", (1, 1, 1), 1), ("dense", (2, 2, 2), 2)],
)
def test_frozen_parameters_keep_every_bit_and_the_others_move(trained, mesh_shape, microbatches):
  before, after, _ = train(trained, mesh_shape, microbatches)
  moved = {name for name in before if (before[name] != after[name]).any()}
  assert moved == {name for name in before if is_experts(name) == (trained == "experts")}
  assert any(map(is_experts, before)) and not all(map(is_experts, before))


def test_norms_of_frozen_layers_are_zero_and_have_their_place():
  _, _, norms = train("experts", (1, 1, 1), 1)
  assert {"encoder", "decoder", "token_embedder/embedding"} <= norms.keys()
  assert not norms["decoder"].any() and norms["encoder"].any()  # the decoder has no experts


def test_a_model_without_experts_cannot_train_only_them():
  dense = ModelConfig(
    vocab_size=128,
    d_model=16,
    d_ff=32,
    d_kv=4,
    num_heads=4,
    num_encoder_layers=1,
    num_decoder_layers=1,
  )
  definition = define_model(dense)
  assert all(jax.tree.leaves(trained_parameters(definition, "dense")))
  with pytest.raises(ConfigError, match=r"train\.trained = 'all'"):
    trained_parameters(definition, "experts")
