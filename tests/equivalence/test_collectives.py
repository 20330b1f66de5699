# SPDX-License-Identifier: Apache-2.0
"""What crosses devices in the Switch layer: which collectives, over which axes, in which type.

How many there are is read from the compiled program, where XLA may have added some. Their types are
read from the traced one: XLA on CPU computes bfloat16 collectives in float32.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.extend.core import ClosedJaxpr, Jaxpr

from switch_t5.layers.moe.capacity import expert_capacity
from switch_t5.layers.moe.switch_feed_forward import SwitchFeedForward
from switch_t5.sharding.mesh import MeshShape, make_mesh
from switch_t5.sharding.rules import named_sharding

WIDTH, HIDDEN, EXPERTS, LENGTH, BATCH_SIZE = 16, 64, 8, 32, 16
GROUPS = BATCH_SIZE  # one sequence each
CAPACITY = expert_capacity(1.25, LENGTH, EXPERTS, 1)
KINDS = ("all-to-all", "all-gather", "reduce-scatter", "all-reduce", "collective-permute")


class Collective(NamedTuple):
  """One collective: its kind, the devices that take part, and elements per device and array."""

  kind: str
  devices: int
  sizes: list[int]


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

  def count(self) -> Counter:
    return Counter(collective.kind for collective in self.compiled)


def group_size(line: str) -> int:
  """Devices in each of a collective's groups; XLA has three ways to write them."""
  if mesh := re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", line):
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh[1])}
    return math.prod(sizes[name] for name in re.findall(r"'(\w+)'", mesh[2]))
  if iota := re.search(r"replica_groups=\[\d+,(\d+)\]<=", line):
    return int(iota[1])
  return len(re.search(r"replica_groups=\{\{([\d,]*)\}", line)[1].split(","))


def compiled_collectives(program: str) -> list[Collective]:
  """Those among more than one device."""
  found = []
  for line in re.sub(r"/\*.*?\*/", "", program).splitlines():
    match = re.search(rf"= (.+?) ({'|'.join(KINDS)})(?:-start)?\(", line)
    if match and group_size(line) > 1:
      shapes = re.findall(r"\w+\[([\d,]*)\]", match[1])
      sizes = [math.prod(int(n) for n in shape.split(",") if n) for shape in shapes]
      found.append(Collective(match[2], group_size(line), sizes))
  return found


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


def compile_layer(mesh_shape, *, backward: bool) -> Program:
  """The layer with bfloat16 activations that are split over tokens and whole along d."""
  layer = SwitchFeedForward(
    WIDTH,
    HIDDEN,
    EXPERTS,
    sequences_per_group=1,
    min_expert_capacity=1,
    jitter_noise=0.0,
    dropout_rate=0.0,
    scale=1.0,
    dtype=jnp.bfloat16,
    rngs=nnx.Rngs(params=0),
  )
  graph, params = nnx.split(layer)
  mesh = make_mesh(MeshShape(*mesh_shape))

  def forward(params, x, y_bar):
    mask = jnp.ones((BATCH_SIZE, LENGTH), bool)
    y, report = nnx.merge(graph, params)(x, mask, capacity_factor=1.25)
    loss = (y * y_bar).astype(jnp.float32).sum() + report.load_balance_loss.mean()
    return loss if backward else (y, report)

  kernels = jax.tree.leaves(params, is_leaf=lambda node: isinstance(node, nnx.Param))
  shapes = [
    jax.ShapeDtypeStruct(k.shape, k.dtype, sharding=named_sharding(mesh, k.get_metadata()["axes"]))
    for k in kernels
  ]
  arguments = jax.tree.unflatten(jax.tree.structure(params), shapes)
  tokens = named_sharding(mesh, ("batch", "embed"))
  x = jax.ShapeDtypeStruct((BATCH_SIZE * LENGTH, WIDTH), jnp.bfloat16, sharding=tokens)
  function = jax.grad(forward, argnums=(0, 1)) if backward else forward
  with jax.set_mesh(mesh):
    traced = jax.jit(function).trace(arguments, x, x)
    program = traced.lower().compile({"xla_backend_optimization_level": 0}).as_text()
  return Program(compiled_collectives(program), traced_collectives(traced.jaxpr.jaxpr))


@pytest.fixture(scope="module")
def expert_parallel():
  return compile_layer((1, 8, 1), backward=True)


@pytest.fixture(scope="module")
def expert_and_model_parallel():
  return compile_layer((1, 4, 2), backward=True)


@pytest.mark.smoke
def test_forward_is_two_all_to_alls_and_nothing_else():
  assert compile_layer((1, 8, 1), backward=False).count() == {"all-to-all": 2}


def test_backward_adds_two_all_to_alls_and_the_routers_gradient(expert_parallel):
  assert expert_parallel.count() == {"all-to-all": 4, "all-reduce": 1}
  (router,) = (c for c in expert_parallel.compiled if c.kind == "all-reduce")
  assert router.sizes == [WIDTH * EXPERTS]


def test_an_all_to_all_sends_the_capacity_of_the_devices_groups(expert_parallel):
  for collective in expert_parallel.compiled:
    if collective.kind == "all-to-all":
      assert collective.devices == 8
      assert sum(collective.sizes) == EXPERTS * GROUPS // 8 * CAPACITY * WIDTH


def test_with_the_model_axis_slices_are_sent_not_copies(expert_and_model_parallel):
  for collective in expert_and_model_parallel.compiled:
    if collective.kind == "all-to-all":
      assert collective.devices == 4
      assert sum(collective.sizes) == EXPERTS * GROUPS // 4 * CAPACITY * WIDTH // 2
    elif collective.kind in ("all-gather", "reduce-scatter"):
      assert collective.devices == 2  # along model alone: no token is gathered over data or expert
  assert expert_and_model_parallel.count()["all-to-all"] == 4
  assert expert_and_model_parallel.count()["collective-permute"] == 0


@pytest.mark.parametrize("program", ["expert_parallel", "expert_and_model_parallel"])
def test_tokens_cross_devices_in_the_activations_type(program, request):
  traced = request.getfixturevalue(program).traced
  all_to_alls = [c for c in traced if c.kind.startswith("all_to_all")]
  assert len(all_to_alls) == 4
  assert all(c.dtype == jnp.bfloat16 and c.axes == ("expert",) for c in all_to_alls)
  # What crosses in float32 is one number per token, or the router's kernel.
  largest = max(BATCH_SIZE * LENGTH, WIDTH * EXPERTS)
  wide = [c for c in traced if c.dtype == jnp.float32]
  assert wide and all(c.size <= largest < BATCH_SIZE * LENGTH * WIDTH // 8 for c in wide), wide
