# SPDX-License-Identifier: Apache-2.0
"""FLOPs counted in a traced program against arithmetic."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from planned import T5_BASE

from switch_t5.batch import batch_spec
from switch_t5.layers.moe.grouped_matmul import grouped_matmul
from switch_t5.model.config import ModelConfig
from switch_t5.model.cost import forward_flops_per_sequence
from switch_t5.model.definition import define_model
from switch_t5.planning.flops import count
from switch_t5.sharding.mesh import MeshShape, make_mesh

ENCODER, DECODER = 512, 114  # lengths of Table 9
GATED = {"mlp_activations": ("gelu", "linear"), "logits_via_embedding": False}


def switch(experts, layers, sparse, **sizes) -> ModelConfig:
  stacks = ("encoder", "decoder")
  return dataclasses.replace(
    T5_BASE,
    num_experts=experts,
    **{f"num_{stack}_layers": layers for stack in stacks},
    **{f"num_{stack}_sparse_layers": sparse for stack in stacks},
    sequences_per_group=experts // 2,
    min_expert_capacity=1,
    train_capacity_factor=1.0,
    **sizes,
  )


MODELS = {
  "t5_base": T5_BASE,
  "switch_base": switch(128, 12, 6),
  "switch_large": switch(128, 24, 12, d_model=1024, d_ff=4096, num_heads=16),
  "switch_xxl": switch(128, 24, 12, d_model=4096, d_ff=10240, num_heads=64, **GATED),
  "switch_c": switch(
    2048, 15, 15, d_model=2080, d_ff=6144, num_heads=30, logits_via_embedding=False
  ),
}


def counted(config, mesh_shape=(1, 1, 1), *, rows=None, gradient=False) -> float:
  """FLOPs of a row."""
  rows = rows or 4 * (config.sequences_per_group or 2)
  definition, mesh = define_model(config), make_mesh(MeshShape(*mesh_shape))
  spec = batch_spec((rows,), ENCODER, DECODER)
  batch = {name: jax.ShapeDtypeStruct(s.shape, s.dtype) for name, s in spec.items()}

  def loss(params, batch):
    output = definition.build(params)(batch, capacity_factor=config.train_capacity_factor)
    return (output.logits**2).sum() + output.router.load_balance_loss.sum()

  with jax.set_mesh(mesh):
    traced = jax.jit(jax.grad(loss) if gradient else loss).trace(definition.shapes, batch)
  return sum(count(traced, mesh.size).values()) * mesh.size / rows


def not_in_table_9(config, model_devices=1) -> float:
  """FLOPs of a row: the rest of attention, and the routers, which each device along model has whole.

  A router multiplies each token by its kernel, and sums probabilities by choice. Table 9 counts queries times keys, but not probabilities times values; and as if the decoder's keys
  and values of the encoder's output were made for each target, not for each input.
  """
  inner = config.num_heads * config.d_kv
  pairs = config.num_encoder_layers * ENCODER**2
  pairs += config.num_decoder_layers * DECODER * (ENCODER + DECODER)
  memory = config.num_decoder_layers * 2 * config.d_model * inner * (ENCODER - DECODER)
  tokens = config.num_encoder_sparse_layers * ENCODER + config.num_decoder_sparse_layers * DECODER
  router = tokens * (config.d_model + 1) * config.num_experts * model_devices
  return 2.0 * (inner * pairs + memory + router)


@pytest.mark.parametrize("name", MODELS)
def test_a_forward_pass_is_table_9_and_what_that_leaves_out(name):
  config = MODELS[name]
  expected = forward_flops_per_sequence(config, ENCODER, DECODER) + not_in_table_9(config)
  # Capacities are rounded up: 57 of 114 targets for each of two experts.
  assert counted(config) == pytest.approx(expected, rel=1e-9)


def test_the_mesh_changes_only_how_often_tokens_are_routed():
  config = MODELS["switch_base"]
  expected = forward_flops_per_sequence(config, ENCODER, DECODER) + not_in_table_9(config, 2)
  assert counted(config, (2, 2, 2)) == pytest.approx(expected, rel=1e-9)


def test_a_backward_pass_is_two_more_and_rematerialisation_another():
  config = dataclasses.replace(T5_BASE, num_encoder_layers=2, num_decoder_layers=2)
  forward = counted(config)
  logits = 2.0 * DECODER * config.d_model * config.padded_vocab_size  # outside of the blocks
  assert counted(config, gradient=True) == pytest.approx(3 * forward, rel=1e-9)
  remat = counted(dataclasses.replace(config, remat="full"), gradient=True)
  assert 3.7 * (forward - logits) < remat - 3 * logits <= 4 * (forward - logits)


def test_capacity_is_paid_in_empty_places():
  exact, roomy = (
    counted(dataclasses.replace(MODELS["switch_base"], train_capacity_factor=factor))
    for factor in (1.0, 2.0)
  )
  experts = 2.0 * 6 * (ENCODER + DECODER) * 2 * T5_BASE.d_model * T5_BASE.d_ff
  assert roomy - exact == pytest.approx(experts, rel=1e-9)


@pytest.mark.smoke
def test_a_ragged_matmul_and_its_gradients_meet_one_kernel_a_row():
  x, kernel = jax.ShapeDtypeStruct((24, 8), jnp.bfloat16), jnp.zeros((4, 8, 16), jnp.bfloat16)
  sizes = jnp.full((4,), 6, jnp.int32)
  forward = jax.jit(lambda x, kernel: grouped_matmul(x, kernel, sizes))
  both = jax.jit(
    jax.value_and_grad(lambda x, k: forward(x, k).astype(jnp.float32).sum(), argnums=(0, 1))
  )
  assert count(forward.trace(x, kernel), 1) == {"bfloat16": 2 * 24 * 8 * 16}
  assert count(both.trace(x, kernel), 1) == {"bfloat16": 3 * 2 * 24 * 8 * 16}


@pytest.mark.smoke
def test_loops_branches_and_types_are_told_apart():
  narrow, wide = jnp.zeros((4, 4), jnp.bfloat16), jnp.zeros((4, 4), jnp.float32)
  one = 2.0 * 4**3

  def program(narrow, wide, n):
    narrow, _ = jax.lax.scan(lambda x, _: (x @ x, None), narrow, length=5)
    wide = jax.lax.while_loop(lambda x: x.sum() < n, lambda x: x @ x, wide)
    return narrow, jax.lax.cond(n > 1, lambda x: x @ x @ x, lambda x: x @ x, wide)

  traced = jax.jit(program).trace(narrow, wide, 3.0)
  assert count(traced, 1) == {"bfloat16": 5 * one, "float32": (1 + 2) * one}
  assert count(traced, 2, loop_trips=7)["float32"] == (7 + 2) * one / 2


@pytest.mark.smoke
def test_a_convolution_is_its_matmul():
  program = jax.jit(lambda x, kernel: jax.lax.conv(x, kernel, (1, 1), "VALID"))
  traced = program.trace(jnp.zeros((2, 3, 8, 8)), jnp.zeros((5, 3, 3, 3)))
  assert count(traced, 1) == {"float32": 2 * (2 * 5 * 6 * 6) * (3 * 3 * 3)}


def test_nothing_is_counted_where_nothing_is_multiplied():
  assert count(jax.jit(lambda x: x * x).trace(jnp.zeros(3)), 1) == {}


def test_what_nothing_needs_is_not_counted():
  x, one = jnp.zeros((4, 4)), 2.0 * 4**3

  def pair(x, _):
    return x, (x @ x, x @ x @ x)

  def first(x):
    return jax.jit(lambda x: jax.lax.scan(pair, x, length=3)[1])(x)[0]

  assert count(jax.jit(first).trace(x), 1) == {"float32": 3 * one}
