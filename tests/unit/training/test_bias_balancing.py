# SPDX-License-Identifier: Apache-2.0
"""A router's bias moves by its own load, whatever the optimizer makes of it."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from switch_t5.model.config import ModelConfig
from switch_t5.model.definition import define_model
from switch_t5.model.router_config import RouterConfig
from switch_t5.model.router_places import router_places
from switch_t5.training.bias_balancing import balance_biases

CONFIG = ModelConfig(
  vocab_size=128,
  d_model=8,
  d_ff=8,
  d_kv=4,
  num_heads=2,
  num_encoder_layers=4,
  num_decoder_layers=3,
  num_experts=4,
  num_encoder_sparse_layers=2,
  num_decoder_sparse_layers=1,
  decoder_sparse_layout="top",
  sparse_sublayers="both",
  sequences_per_group=1,
  encoder_router=RouterConfig(bias_update_rate=0.1),
  decoder_router=RouterConfig(bias_update_rate=0.01),
)


def test_routers_are_named_in_the_order_of_their_reports():
  assert [place.name for place in router_places(CONFIG)] == [
    "encoder/layer_1/attention",
    "encoder/layer_1/mlp",
    "encoder/layer_3/attention",
    "encoder/layer_3/mlp",
    "decoder/layer_2/self_attention",
    "decoder/layer_2/mlp",
  ]
  shapes = define_model(CONFIG).shapes
  for place in router_places(CONFIG):
    leaf = shapes
    for name in (*place.path, "bias"):
      leaf = leaf[name]
    assert leaf.shape[1:] == (4,) and place.repeat < leaf.shape[0]


def test_each_bias_moves_by_the_load_of_its_own_router_at_its_stacks_rate():
  params = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.5), define_model(CONFIG).shapes)
  updated = jax.tree.map(lambda leaf: leaf - 0.25, params)
  load = jnp.asarray(np.random.default_rng(0).permutation(24).reshape(6, 4), jnp.float32)
  moved = balance_biases(CONFIG, params, updated, load)

  for i, place in enumerate(router_places(CONFIG)):
    leaf = moved
    for name in (*place.path, "bias"):
      leaf = leaf[name]
    rate = {"encoder": 0.1, "decoder": 0.01}[place.stack]
    wanted = 0.5 + rate * np.sign(np.mean(load[i]) - load[i])
    np.testing.assert_allclose(leaf[place.repeat], wanted, rtol=1e-6)
  others = [
    leaf for path, leaf in jax.tree_util.tree_leaves_with_path(moved) if path[-1].key != "bias"
  ]
  assert all((leaf == 0.25).all() for leaf in others)
  assert len(others) == len(jax.tree.leaves(moved)) - 4  # two paths in each stack


def test_without_a_rate_nothing_is_touched():
  config = dataclasses.replace(CONFIG, encoder_router=RouterConfig(), decoder_router=RouterConfig())
  updated = {"a": jnp.zeros(3)}
  assert balance_biases(config, {}, updated, jnp.zeros((6, 4))) is updated
