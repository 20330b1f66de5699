# SPDX-License-Identifier: Apache-2.0
"""What crosses devices in the Switch layer: which collectives, over which axes, in which type.

How many there are is read from the compiled program, where XLA may have added some. Their types are
read from the traced one: XLA on CPU computes bfloat16 collectives in float32.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest
from collectives import Collective, collectives
from flax import nnx
from jax.extend.core import ClosedJaxpr, Jaxpr

from switch_t5.layers.moe.capacity import expert_capacity
from switch_t5.layers.moe.experts import Experts
from switch_t5.layers.moe.router import TopKRouter
from switch_t5.layers.moe.switch_layer import SAVED_NAMES, SwitchLayer
from switch_t5.sharding.annotate import constrain
from switch_t5.sharding.mesh import MeshShape, make_mesh
from switch_t5.sharding.rules import PARAMETER_RULES, named_sharding

WIDTH, HIDDEN, EXPERTS, LENGTH, BATCH_SIZE = 16, 64, 8, 32, 16
CAPACITY = expert_capacity(1.25, LENGTH, EXPERTS, 1)
GATED = ("gelu", "linear")
# The layouts of the paper's section 5, in its order.
LAYOUTS = [(8, 1, 1), (1, 1, 8), (4, 1, 2), (2, 4, 1), (2, 2, 2)]


class Traced(NamedTuple):
  """One operand of a collective before compilation."""

  kind: str
  axes: tuple[str, ...]
  dtype: jnp.dtype
  size: int


class Program(NamedTuple):
  """A layer's collectives, as compiled and as traced."""

  compiled: list[Collective]
  traced: list[Traced]

  def counted(self) -> Counter:
    """How often each (kind, devices, elements on a device) occurs; an all-to-all is counted whole."""
    entries = Counter()
    for kind, devices, _, shapes in self.compiled:
      sizes = [math.prod(shape) for shape in shapes]
      entries.update((kind, devices, n) for n in ([sum(sizes)] if kind == "all-to-all" else sizes))
    return entries


def traced_collectives(jaxpr: Jaxpr) -> list[Traced]:
  found = []
  for equation in jaxpr.eqns:
    axes = equation.params.get("axis_name", equation.params.get("axes"))
    kind = equation.primitive.name
    if kind.startswith(("all_to_all", "all_gather", "reduce_scatter", "psum")):
      axes = (axes,) if isinstance(axes, str) else tuple(axes)
      found += [Traced(kind, axes, v.aval.dtype, v.aval.size) for v in equation.invars]
    for value in equation.params.values():
      if isinstance(value, (ClosedJaxpr, Jaxpr)):
        found += traced_collectives(getattr(value, "jaxpr", value))
  return found


def compile_layer(
  mesh_shape, *, backward: bool, parameter_sharding="replicated", activations=("relu",), remat=False
) -> Program:
  """The layer with bfloat16 activations that are split over tokens and whole along d."""
  rngs = nnx.Rngs(params=0)
  layer = SwitchLayer(
    TopKRouter(WIDTH, EXPERTS, scale=1.0, rngs=rngs),
    Experts(EXPERTS, WIDTH, HIDDEN, activations=activations, scale=1.0, rngs=rngs),
    sequences_per_group=1,
    min_expert_capacity=1,
    dtype=jnp.bfloat16,
  )
  graph, params = nnx.split(layer)
  mesh = make_mesh(MeshShape(*mesh_shape))

  def forward(params, x, y_bar):
    mask = jnp.ones((BATCH_SIZE, LENGTH), bool)
    y, report = nnx.merge(graph, params)(x, mask, capacity_factor=1.25)
    y = constrain(y, "batch", "embed")  # as the residual stream is
    loss = (y * y_bar).astype(jnp.float32).sum() + report.load_balance_loss
    return (loss, y) if backward else y

  if remat:
    forward = jax.checkpoint(
      forward, policy=jax.checkpoint_policies.save_only_these_names(*SAVED_NAMES)
    )
  rules = PARAMETER_RULES[parameter_sharding]
  kernels = jax.tree.leaves(params, is_leaf=lambda node: isinstance(node, nnx.Param))
  layouts = [named_sharding(mesh, k.get_metadata()["axes"], rules) for k in kernels]
  shapes = [
    jax.ShapeDtypeStruct(kernel.shape, kernel.dtype, sharding=layout)
    for kernel, layout in zip(kernels, layouts, strict=True)
  ]
  structure = jax.tree.structure(params)
  tokens = named_sharding(mesh, ("batch", "embed"))
  x = jax.ShapeDtypeStruct((BATCH_SIZE * LENGTH, WIDTH), jnp.bfloat16, sharding=tokens)
  function, out = forward, None
  if backward:
    function = jax.grad(forward, argnums=(0, 1), has_aux=True)
    out = ((jax.tree.unflatten(structure, layouts), tokens), tokens)
  with jax.set_mesh(mesh):
    traced = jax.jit(function, out_shardings=out).trace(jax.tree.unflatten(structure, shapes), x, x)
    program = traced.lower().compile({"xla_backend_optimization_level": 0}).as_text()
  return Program(collectives(program), traced_collectives(traced.jaxpr.jaxpr))


class Sizes(NamedTuple):
  """Elements on one device: of its tokens [T, d], of its slots [E, G * C, d], of its experts' wi."""

  tokens: int
  slots: int
  kernel: int

  @classmethod
  def on(cls, data, expert, model) -> Sizes:
    groups = BATCH_SIZE // (data * expert)  # one sequence each
    slots = EXPERTS * groups * CAPACITY * WIDTH  # capacity_factor * T * d, rounded up
    return cls(groups * LENGTH * WIDTH, slots, EXPERTS // expert * WIDTH * HIDDEN // model)


def forward_collectives(data, expert, model) -> Counter:
  """Paper section 5; d / m columns travel through the all-to-alls."""
  sizes, found = Sizes.on(data, expert, model), Counter()
  if expert > 1:
    found["all-to-all", expert, sizes.slots // model] += 2
  if model > 1:
    found["all-gather", model, sizes.slots] += 1
    found["reduce-scatter", model, sizes.slots // model] += 1
    found["all-gather", model, sizes.tokens] += 1
  return found


def backward_collectives(data, expert, model) -> Counter:
  """The transposes, and the gradients of what is whole on several devices."""
  sizes, found = Sizes.on(data, expert, model), forward_collectives(data, expert, model)
  if data * expert > 1:
    found["all-reduce", data * expert, WIDTH * EXPERTS] += 1  # the router's kernel
  if model > 1:
    found["all-reduce", model, sizes.tokens // WIDTH] += 1  # the gates
  if data > 1:
    found["all-reduce", data, sizes.kernel] += 2  # wi and wo
  return found


@pytest.fixture(scope="module")
def program():
  """Compiles the layer once for each way of running it."""
  programs = {}

  def program(layout, *, backward=True, **changes) -> Program:
    key = (layout, backward, *changes.items())
    if key not in programs:
      programs[key] = compile_layer(layout, backward=backward, **changes)
    return programs[key]

  return program


@pytest.mark.smoke
@pytest.mark.parametrize("layout", LAYOUTS)
def test_forward_is_that_of_the_paper(program, layout):
  assert program(layout, backward=False).counted() == forward_collectives(*layout)


@pytest.mark.parametrize("layout", [*LAYOUTS, (1, 8, 1), (1, 4, 2)])
def test_backward_adds_the_transposes_and_the_sums_of_gradients(program, layout):
  expected = forward_collectives(*layout) + backward_collectives(*layout)
  assert program(layout).counted() == expected


@pytest.mark.parametrize("layout", [(2, 4, 1), (2, 2, 2)])
def test_gated_experts_send_no_more_tokens(program, layout):
  sizes, plain = Sizes.on(*layout), program(layout).counted()
  second_wi = {("all-reduce", layout[0], sizes.kernel): 1}
  assert program(layout, activations=GATED).counted() == plain + Counter(second_wi)


@pytest.mark.parametrize("layout", [(8, 1, 1), (2, 4, 1), (2, 2, 2)])
def test_split_parameters_add_gathers_of_kernels_and_of_no_token(program, layout):
  sizes, replicated = Sizes.on(*layout), program(layout).counted()
  kernels = Counter()
  kernels["all-gather", layout[0], sizes.kernel] += 2
  kernels["all-gather", layout[0], WIDTH * EXPERTS] += 1
  assert program(layout, parameter_sharding="fsdp").counted() == replicated + kernels


@pytest.mark.parametrize("activations", [("relu",), GATED])
def test_rematerialisation_repeats_no_all_to_all(program, activations):
  kept, recomputed = (
    program((2, 2, 2), activations=activations, remat=remat).counted() for remat in (False, True)
  )
  assert {k: n for k, n in recomputed.items() if k[0] == "all-to-all"} == {
    k: n for k, n in kept.items() if k[0] == "all-to-all"
  }


@pytest.mark.parametrize("layout", [(1, 8, 1), (1, 4, 2), (2, 2, 2)])
@pytest.mark.parametrize("activations", [("relu",), GATED])
def test_tokens_cross_devices_in_the_activations_type(program, layout, activations):
  traced = program(layout, activations=activations).traced
  all_to_alls = [c for c in traced if c.kind.startswith("all_to_all")]
  sizes = Sizes.on(*layout)
  assert [c.size * c.dtype.itemsize for c in all_to_alls] == [sizes.slots // layout[2] * 2] * 4
  assert all(c.dtype == jnp.bfloat16 and c.axes == ("expert",) for c in all_to_alls)
  # What crosses in float32 is one number per token, or the router's kernel.
  largest = max(BATCH_SIZE * LENGTH, WIDTH * EXPERTS)
  wide = [c for c in traced if c.dtype == jnp.float32]
  assert wide and all(c.size <= largest < BATCH_SIZE * LENGTH * WIDTH // 8 for c in wide), wide


def test_in_a_whole_step_only_kernels_are_gathered_over_data(train):
  """On (4, 2, 1): nothing over expert, no token over data, no collective of XLA's own choice."""
  replicated, split = (
    collectives(train((4, 2, 1), parameter_sharding=way).program) for way in ("replicated", "fsdp")
  )
  assert {c.kind for c in replicated} == {"all-to-all", "all-reduce"}
  assert {c.kind for c in split} == {"all-to-all", "all-reduce", "all-gather"}
  parameters = {(16,), (16, 8), (16, 16), (128, 16), (4, 16, 32), (4, 32, 16)}
  for gather in (c for c in split if c.kind == "all-gather"):
    assert gather.devices == 4 and set(gather.shapes) <= parameters, gather
