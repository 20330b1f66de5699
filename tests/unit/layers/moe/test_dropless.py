# SPDX-License-Identifier: Apache-2.0
"""Routing without capacity: equal to routing with room for all, whatever the mesh and the batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from switch_t5.layers.moe.dispatch import make_dropless_plan
from switch_t5.layers.moe.experts import AttentionExperts, Experts, row_dropout
from switch_t5.layers.moe.router import TopKRouter
from switch_t5.layers.moe.switch_layer import SwitchLayer
from switch_t5.layers.row_key import RowKey
from switch_t5.sharding.mesh import MeshShape, make_mesh

WIDTH, HIDDEN, LENGTH, EXPERTS = 16, 8, 6, 8
MESHES = [(1, 1, 1), (2, 2, 2), (1, 8, 1), (1, 4, 2)]


def make_layer(k=1, *, attention=False, dropout=0.0, activations=("relu",)):
  rngs = nnx.Rngs(params=1)
  if attention:
    experts = AttentionExperts(EXPERTS, WIDTH, 4, 4, scale=4.0, rngs=rngs)
  else:
    experts = Experts(
      EXPERTS,
      WIDTH,
      HIDDEN,
      activations=activations,
      dropout_rate=dropout,
      scale=4.0,
      rngs=rngs,
    )
  return SwitchLayer(
    TopKRouter(WIDTH, EXPERTS, num_selected=k, scale=4.0, rngs=rngs),
    experts,
    sequences_per_group=1,
    min_expert_capacity=1,
    dtype=jnp.float32,
  )


def make_inputs(lengths=(6, 6, 3, 6, 1, 6, 0, 5)):
  x = np.random.default_rng(0).normal(size=(len(lengths) * LENGTH, WIDTH)).astype(np.float32)
  mask = np.arange(LENGTH)[None] < np.asarray(lengths)[:, None]
  return jnp.asarray(x), jnp.asarray(mask)


def run(layer, factor, mesh=(1, 1, 1), key=None, inputs=None):
  """Returns outputs, report and all gradients of a sum over them."""
  x, mask = make_inputs() if inputs is None else inputs
  graph, params = nnx.split(layer)

  def loss(params, x):
    y, report = nnx.merge(graph, params)(x, mask, capacity_factor=factor, key=key)
    y = jnp.concatenate(jax.tree.leaves(y), axis=-1)
    weights = jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
    return (y * weights).sum() + report.load_balance_loss + report.router_z_loss, (y, report)

  with jax.set_mesh(make_mesh(MeshShape(*mesh))):
    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (_, (y, report)), (params_bar, x_bar) = step(params, x)
  return jax.device_get((y, report, nnx.to_pure_dict(params_bar), x_bar))


def assert_same(got, want):
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    scale = max(float(np.abs(b).max()), 1e-30)
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.smoke
@pytest.mark.parametrize("mesh", MESHES)
def test_outputs_and_gradients_are_those_of_room_for_all(mesh):
  layer = make_layer(k=2)
  roomy = run(layer, float(EXPERTS))
  assert roomy[1].num_dropped == 0
  assert_same(run(layer, None, mesh), roomy)


@pytest.mark.parametrize("kind", ["one choice", "gated", "attention"])
def test_so_are_those_of_other_experts(kind):
  layer = {
    "one choice": make_layer(),
    "gated": make_layer(activations=("gelu", "linear")),
    "attention": make_layer(attention=True),
  }[kind]
  roomy = run(layer, float(EXPERTS))
  for mesh in ((1, 1, 1), (2, 2, 2)):
    assert_same(run(layer, None, mesh), roomy)


def test_expert_dropout_does_not_depend_on_the_mesh():
  layer = make_layer(k=2, dropout=0.4)
  one = run(layer, None, key=RowKey(jax.random.key(3)))
  assert_same(run(layer, None, (2, 2, 2), key=RowKey(jax.random.key(3))), one)
  assert np.abs(one[0] - run(layer, None)[0]).max() > 0.1


def test_each_row_draws_its_own_dropout_of_the_given_share():
  hidden = jnp.full((300, 64), 3.0)
  dropped = row_dropout(
    hidden, rate=0.4, key=jax.random.key(0), row_ids=jnp.arange(300), first_column=0, d_ff=64
  )
  kept = np.asarray(dropped) != 0
  np.testing.assert_allclose(np.asarray(dropped)[kept], 5.0, rtol=1e-6)
  assert kept.mean() == pytest.approx(0.6, abs=0.01)
  assert len({row.tobytes() for row in kept}) == 300


def test_what_becomes_of_a_sentence_is_bit_equal_whatever_else_is_in_the_batch():
  layer = make_layer(k=2)
  rng = np.random.default_rng(0)
  x = rng.normal(size=(64, LENGTH, WIDTH)).astype(np.float32)
  mask = np.arange(LENGTH)[None] < rng.integers(0, LENGTH + 1, (64, 1))
  graph, params = nnx.split(layer)
  run = jax.jit(lambda x, mask: nnx.merge(graph, params)(x, mask, capacity_factor=None)[0])

  def outputs(order):
    y = run(x[order].reshape(-1, WIDTH), mask[order])
    return np.asarray(y).reshape(len(order), LENGTH, WIDTH)

  with jax.set_mesh(make_mesh(MeshShape())):
    together = outputs(np.arange(64))
    for order in (rng.permutation(64), np.repeat(rng.permutation(64)[:32], 2), np.full(64, 17)):
      np.testing.assert_array_equal(outputs(order), together[order])


@pytest.mark.parametrize("k", [1, 2])
def test_the_plan_sorts_choices_by_expert_and_gives_padding_no_slot(k):
  rng = np.random.default_rng(0)
  index = rng.random((3, 7, 5)).argsort(axis=-1)[..., :k].astype(np.int32)
  index[0, 2, -1] = 5  # no expert
  mask = rng.random((3, 7)) < 0.8
  plan, sizes = make_dropless_plan(jnp.asarray(index), jnp.asarray(mask), 5)
  wanted = np.where(mask[..., None], index, 5).reshape(-1)
  order = [c for e in range(5) for c in np.flatnonzero(wanted == e)]
  np.testing.assert_array_equal(sizes, np.bincount(wanted, minlength=6)[:5])
  np.testing.assert_array_equal(plan.choice_of_slot[: len(order)], order)
  assert (plan.choice_of_slot[len(order) :] == wanted.size).all()
  slots = np.full(wanted.size, wanted.size)
  slots[order] = np.arange(len(order))
  np.testing.assert_array_equal(plan.slot_of_choice.ravel(), slots)
