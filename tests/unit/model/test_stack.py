# SPDX-License-Identifier: Apache-2.0
"""A stack of several runs of blocks: its parameters, and its pass against a loop over the blocks."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from switch_t5.layers.dropout import dropout_tokens
from switch_t5.layers.row_key import RowKey
from switch_t5.model.blocks import StackInputs
from switch_t5.model.config import ModelConfig
from switch_t5.model.router_config import RouterConfig
from switch_t5.model.stack import Stack
from switch_t5.sharding.mesh import MeshShape, make_mesh

CONFIG = ModelConfig(
  vocab_size=128,
  d_model=16,
  d_ff=24,
  d_kv=4,
  num_heads=2,
  num_encoder_layers=4,
  num_decoder_layers=4,
  num_experts=4,
  num_encoder_sparse_layers=2,
  num_decoder_sparse_layers=2,
  sequences_per_group=1,
  dropout_rate=0.1,
  encoder_router=RouterConfig(jitter_noise=0.1),
  decoder_router=RouterConfig(jitter_noise=0.1),
  activation_dtype="float32",
)
BATCH_SIZE, LENGTH = 2, 6
# Each run's parameters, and its repeats.
LAYOUTS = {
  "mixed": [("blocks", 2)],
  "middle": [("blocks", 1), ("blocks_1", 2), ("blocks_2", 1)],
}


def make_stack(layout: str) -> Stack:
  config = dataclasses.replace(CONFIG, encoder_sparse_layout=layout)
  return Stack(config, "encoder", rngs=nnx.Rngs(params=0))


def loop_over_blocks(stack, runs, x, inputs, key):
  """The stack's pass without a scan: activations and reports as it returns them."""
  before_key, blocks_key, after_key = key.split(3)
  # A stack of one run has a key for each of its blocks, and so have several: none is used twice.
  keys = iter(blocks_key.split(sum(repeats for _, repeats in runs)))
  run_block = jax.jit(
    lambda graph, params, x, key: nnx.merge(graph, params)(x, inputs, 1.0, key), static_argnums=0
  )
  x = dropout_tokens(x, CONFIG.dropout_rate, before_key, BATCH_SIZE)
  reports = []
  for name, repeats in runs:
    graph, params = nnx.split(getattr(stack, name))
    for repeat in range(repeats):
      block_params = jax.tree.map(lambda leaf, repeat=repeat: leaf[repeat], params)
      x, report = run_block(graph, block_params, x, next(keys))
      reports += [] if report is None else [jax.tree.map(lambda leaf: leaf[0], report)]
  x = dropout_tokens(jax.jit(stack.encoder_norm)(x), CONFIG.dropout_rate, after_key, BATCH_SIZE)
  return x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *reports)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_runs_follow_each_other_with_noise_and_reports_as_in_a_loop(layout):
  stack, key = make_stack(layout), RowKey(jax.random.key(1))
  x = jax.random.normal(jax.random.key(2), (BATCH_SIZE * LENGTH, CONFIG.d_model))
  token_mask = jnp.ones((BATCH_SIZE, LENGTH), bool)
  token_ids = token_mask.astype(jnp.int32)
  self_mask = jnp.ones((BATCH_SIZE, 1, LENGTH, LENGTH), bool)

  with jax.set_mesh(make_mesh(MeshShape())):
    inputs = StackInputs(token_ids, token_mask, self_mask, stack.relpos_bias(LENGTH))
    expected, expected_report = loop_over_blocks(stack, LAYOUTS[layout], x, inputs, key)
    run = jax.jit(lambda: stack(x, token_ids, token_mask, self_mask, capacity_factor=1.0, key=key))
    y, report = run()
  np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
  assert report.expert_load.shape == (2, CONFIG.num_experts)
  assert not np.array_equal(*report.expert_load)  # the order of the layers can be seen
  for got, want in zip(*map(jax.tree.leaves, (report, expected_report)), strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_first_run_keeps_its_name_and_every_layer_draws_its_own_values(layout):
  stack = make_stack(layout)
  params = nnx.to_pure_dict(nnx.state(stack, nnx.Param))
  runs = {
    name: len(leaf["layers_0"]["pre_mlp_layer_norm"]["scale"])
    for name, leaf in params.items()
    if name.startswith("blocks")
  }
  assert runs == dict(LAYOUTS[layout])
  kernels = [
    layer["attention"]["query"]["kernel"] for name in runs for layer in params[name].values()
  ]
  drawn = np.concatenate(kernels)[:, 0, 0]
  assert len(set(drawn.tolist())) == len(drawn) == CONFIG.num_encoder_layers
