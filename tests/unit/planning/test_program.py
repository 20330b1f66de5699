# SPDX-License-Identifier: Apache-2.0
"""What is read from compiled programs: against programs whose collectives and sizes are known."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from switch_t5.planning import hlo, program
from switch_t5.planning.plan import Collective
from switch_t5.sharding.mesh import AXES, MeshShape, make_mesh

LAYERS, TOKENS, WIDTH = 5, 64, 16


@dataclasses.dataclass(frozen=True)
class SliceDevice:
  """As much of a device as says which slice it is in."""

  id: int
  slice_index: int
  platform: str = "tpu"


def mesh_of(shape, slices=1) -> Mesh:
  number = int(np.prod(shape))
  devices = [SliceDevice(i, i * slices // number) for i in range(number)]
  return Mesh(np.array(devices, dtype=object).reshape(shape), AXES)


def step(weights, x):
  """One training step of a scan whose layers gather, scatter and exchange, in float32."""

  def layer(x, w):
    def inner(x, w):
      y = jnp.tanh(lax.all_gather(x, "model", axis=1, tiled=True) @ w)
      y = lax.psum_scatter(y, "model", scatter_dimension=1, tiled=True)
      return lax.all_to_all(y.reshape(2, -1, y.shape[-1]), "expert", 0, 0).reshape(x.shape)

    tokens = P(("data", "expert"), "model")
    return jax.shard_map(inner, in_specs=(tokens, P()), out_specs=tokens)(x, w), None

  def loss(weights):
    with jax.named_scope("encoder"):
      y, _ = lax.scan(layer, x, weights)
    return (y**2).sum()

  gradients = jax.grad(loss)(weights)
  return jax.tree.map(lambda w, g: w - g, weights, gradients)


@pytest.fixture(scope="module")
def compiled():
  """The step on (2, 2, 2), and its mesh."""
  mesh = make_mesh(MeshShape(2, 2, 2))
  arguments = (
    jax.ShapeDtypeStruct((LAYERS, WIDTH, WIDTH), jnp.float32, sharding=NamedSharding(mesh, P())),
    jax.ShapeDtypeStruct(
      (TOKENS, WIDTH), jnp.float32, sharding=NamedSharding(mesh, P(("data", "expert"), "model"))
    ),
  )
  with jax.set_mesh(mesh):
    return jax.jit(step).lower(*arguments).compile(), mesh


@pytest.mark.smoke
def test_collectives_of_a_step_are_counted_through_its_loops(compiled):
  found = program.collectives(compiled[0].as_text(), compiled[1])
  part = TOKENS // 4 * WIDTH // 2 * 4  # bytes of a device's tokens, d split over model
  exchanges = {
    (c.kind, c.axes, c.phase): (c.times, c.bytes)
    for c in found
    if c.kind != "all-reduce" and c.where == "encoder" and not c.crosses_slices
  }
  assert exchanges == {
    (kind, axes, phase): (LAYERS, bytes_)
    for phase in ("forward", "backward")
    for kind, axes, bytes_ in [
      ("all-gather", ("model",), part),
      ("reduce-scatter", ("model",), 2 * part),
      ("all-to-all", ("expert",), part),
    ]
  }
  gradients = [c for c in found if c.kind == "all-reduce"]
  assert {(c.axes, c.phase) for c in gradients} == {(("data", "expert", "model"), "backward")}
  assert sum(c.total for c in gradients) == LAYERS * WIDTH * WIDTH * 4


def test_without_differentiation_all_is_forward(compiled):
  mesh = compiled[1]
  x = jax.ShapeDtypeStruct((8, 8), jnp.float32, sharding=NamedSharding(mesh, P("data")))
  text = jax.jit(jnp.sum).lower(x).compile().as_text()
  (total,) = program.collectives(text, mesh)
  assert (total.kind, total.axes, total.phase, total.bytes) == (
    "all-reduce",
    ("data",),
    "forward",
    4,
  )


def text_of(*lines, other="") -> str:
  body = "\n".join(f"  {line}" for line in lines)
  return f"HloModule m\n\n{other}\nENTRY %main (x: f32[8,4]) -> f32[8,4] {{\n{body}\n}}\n"


X = "%x = bf16[8,4]{1,0:T(8,128)(2,1)} parameter(0)"


def one(text, shape=(2, 2, 2), slices=1) -> Collective:
  (found,) = program.collectives(text, mesh_of(shape, slices))
  return found


@pytest.mark.parametrize(
  ("groups", "axes"),
  [
    ("replica_groups={{0,1},{2,3},{4,5},{6,7}}", ("model",)),
    ("replica_groups={{0,2},{1,3},{4,6},{5,7}}", ("expert",)),
    ("replica_groups={}", ("data", "expert", "model")),
    ("replica_groups=[4,2]<=[8]", ("model",)),
    ("replica_groups=[4,2]<=[2,2,2]T(1,2,0)", ("data",)),
    ("replica_groups=[2,4]<=[4,2]T(1,0)", ("data", "expert")),
    ("replica_groups=mesh['data'=2,'expert'=2,'model'=2] {'data','expert'}", ("data", "expert")),
    ("replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_1'}", ("model",)),
    ("replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0':(2)2}", ("expert",)),
    ("replica_groups={{0,3},{1,2},{4,7},{5,6}}", ()),
    ("replica_groups={{0,1,2},{3,4,5}}", ()),
  ],
)
def test_groups_in_every_spelling_are_axes_of_the_mesh(groups, axes):
  assert one(text_of(X, f"ROOT %r = bf16[8,4] all-reduce(%x), channel_id=1, {groups}")).axes == axes


def test_pairs_of_a_permutation_are_the_axis_along_which_they_lie():
  pairs = "source_target_pairs={{0,2},{2,0},{1,3},{3,1},{4,6},{6,4},{5,7},{7,5}}"
  found = one(text_of(X, f"ROOT %r = bf16[8,4] collective-permute(%x), channel_id=1, {pairs}"))
  assert (found.kind, found.axes, found.bytes) == ("collective-permute", ("expert",), 64)


def test_a_group_of_one_device_is_no_collective():
  groups = "replica_groups=[8,1]<=[8]"
  text = text_of(X, f"ROOT %r = bf16[8,4] all-reduce(%x), channel_id=1, {groups}")
  assert program.collectives(text, mesh_of((2, 2, 2))) == ()


def test_what_starts_and_is_done_is_counted_once_with_all_its_operands():
  text = text_of(
    X,
    "%y = pred[3]{0} parameter(1)",
    "%s = (bf16[8,4], /*index=1*/pred[3]) all-reduce-start(%x, %y), replica_groups={{0,1}}",
    "ROOT %d = (bf16[8,4], pred[3]) all-reduce-done(%s)",
  )
  assert (one(text).times, one(text).bytes) == (1, 64 + 3)


def test_a_ragged_exchange_counts_the_rows_that_there_is_room_for():
  text = text_of(
    X,
    "%o = s32[2]{0} parameter(1)",
    "ROOT %r = bf16[16,4] ragged-all-to-all(%x, %x, %o, %o, %o, %o), replica_groups=[4,2]<=[8]",
  )
  assert (one(text).kind, one(text).bytes) == ("ragged-all-to-all", 64)


def test_a_collective_spread_over_fusions_is_counted_where_it_starts():
  gather = "all-gather(%x), channel_id=1, replica_groups=[4,2]<=[8], dimensions={0}"
  fusions = "".join(
    f"%{name} (x: bf16[8,4]) -> bf16[16,4] {{\n  {X}\n  %g.{name} = bf16[16,4] {gather}\n"
    f'  ROOT %c.{name} = bf16[16,4] custom-call(%g.{name}), custom_call_target="{target}"\n}}\n'
    for name, target in [
      ("fused.1", "AsyncCollectiveStart"),
      ("async_collective_fusion.2", "Other"),
      ("fused.3", "AsyncCollectiveDone"),
    ]
  )
  calls = [
    f"%c{i} = bf16[16,4] fusion(%x), kind=kCustom, calls=%{name}"
    for i, name in enumerate(("fused.1", "async_collective_fusion.2", "fused.3"))
  ]
  assert one(text_of(X, *calls, other=fusions)).times == 1


def test_between_slices_hosts_send_and_within_them_groups_are_of_one_slice():
  """XLA for TPU sums over (data, expert) of two slices in steps: within a slice, then between."""
  transfer = '_xla_megascale_transfer_type="ALL_REDUCE"'
  text = text_of(
    X,
    "%s = bf16[2,4] reduce-scatter(%x), replica_groups={{0,1,2,3}}, dimensions={0}",
    "%t = token[] after-all()",
    f"%h = (bf16[2,4], u32[], token[]) send(%s, %t), frontend_attributes={{{transfer}}}",
  )
  within, between = program.collectives(text, mesh_of((4, 2, 1), slices=2))
  assert (within.axes, within.crosses_slices) == (("data", "expert"), False)
  assert (between.kind, between.axes, between.bytes) == ("all-reduce", ("data",), 16)
  assert between.crosses_slices


def test_groups_of_several_slices_cross_them():
  line = "ROOT %r = bf16[8,4] all-reduce(%x), replica_groups=[2,4]<=[4,2]T(1,0)"
  assert one(text_of(X, line), slices=2).crosses_slices
  assert not one(text_of(X, line), slices=1).crosses_slices


LOOP = """%body (s: (s32[], bf16[8,4])) -> (s32[], bf16[8,4]) {
  %s = (s32[], bf16[8,4]) parameter(0)
  %v = bf16[8,4] get-tuple-element(%s), index=1
  ROOT %r = bf16[8,4] all-reduce(%v), replica_groups=[4,2]<=[8]
}

%condition (s: (s32[], bf16[8,4])) -> pred[] {
  %c = s32[] constant(6)
  %s.1 = (s32[], bf16[8,4]) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%s.1), index=0
  ROOT %lt = pred[] compare(%i, %c), direction=LT
}
"""


@pytest.mark.parametrize(
  ("start", "known", "times"),
  [(0, "", 6), (2, "", 4), (0, ', backend_config={"known_trip_count":{"n":"3"}}', 3)],
)
def test_loops_run_as_often_as_xla_or_their_condition_says(start, known, times):
  text = text_of(
    X,
    f"%zero = s32[] constant({start})",
    "%t = (s32[], bf16[8,4]) tuple(%zero, %x)",
    f"%w = (s32[], bf16[8,4]) while(%t), condition=%condition, body=%body{known}",
    other=LOOP,
  )
  assert one(text).times == times


def test_sizes_know_every_type_and_no_layout():
  type_ = "(f32[2,3]{1,0:T(8,128)S(1)}, s4[3], f8e4m3fn[5], pred[], token[], u64[2]{0})"
  assert hlo.size(type_) == 24 + 2 + 5 + 1 + 16


def test_memory_has_kinds_that_sum_to_the_compilers_total(compiled):
  step, _ = compiled
  found = program.memory(
    step,
    step.as_text(),
    params_bytes=4000,
    optimizer_bytes=300,
    batch_bytes=20,
    gradient_bytes=1000,
    limit=10**6,
  )
  analysis = step.memory_analysis()
  least = analysis.argument_size_in_bytes + analysis.temp_size_in_bytes
  assert found.total >= least and sum(found.kinds.values()) == found.total
  assert found.exact and found.fits
  assert found.kinds["parameters"] == 4000 and found.kinds["gradients"] == 1000


def test_activations_are_what_a_forward_scan_stacks_up():
  def loss(w, x):
    y, _ = lax.scan(lambda x, _: (jnp.sin(x * w), None), x, length=7)
    return y.sum()

  x = jax.ShapeDtypeStruct((128, 128), jnp.float32)
  text = jax.jit(jax.grad(loss)).lower(x, x).compile().as_text()
  # x for the gradient of w, and cos(x * w) or x * w for that of sin.
  assert program.stacked_activations(text) == 2 * 7 * 128 * 128 * 4


TPU_ERROR = (
  "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for"
  " HLO temporaries (257.00G) exceeds available HBM (15.75G). HLO module: jit_f."
)


def test_what_the_compiler_refused_says_how_much_it_would_take():
  given = {"params_bytes": 2**30, "optimizer_bytes": 2**20, "batch_bytes": 2**10}
  given["limit"] = 16 * 2**30
  found = program.memory_from_error(TPU_ERROR, **given)
  assert (found.total, found.limit) == (257 * 2**30, int(15.75 * 2**30))
  assert sum(found.kinds.values()) == found.total and not found.fits
  run = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 5000 bytes."
  assert program.memory_from_error(run, **given).total == 2**30 + 2**20 + 2**10 + 5000
  assert program.memory_from_error("INTERNAL: something else (1.00G)", **given) is None


COMPILE_ELSEWHERE = """
import sys
from switch_t5.planning import program, topology
described = topology.parse(sys.argv[1])
topology.prepare(described)
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
from switch_t5.sharding.mesh import MeshShape, make_mesh
from test_program import LAYERS, TOKENS, step
mesh = make_mesh(MeshShape(2, 2, 2), topology.devices(described))
tokens = NamedSharding(mesh, P(("data", "expert"), "model"))
weights = jax.ShapeDtypeStruct((LAYERS, 128, 128), jnp.bfloat16, sharding=NamedSharding(mesh, P()))
with jax.set_mesh(mesh):
  x = jax.ShapeDtypeStruct((TOKENS, 128), jnp.bfloat16, sharding=tokens)
  text = jax.jit(step).lower(weights, x).compile().as_text()
for c in program.collectives(text, mesh):
  if c.kind in ("all-to-all", "all-gather"):
    print(c.kind, c.axes, c.phase, c.where, c.times, c.bytes)
large = jax.ShapeDtypeStruct((2**17, 1024), jnp.float32, sharding=NamedSharding(mesh, P()))
try:
  jax.jit(lambda x: jnp.sin(x @ x.T)).lower(large).compile()
except RuntimeError as error:
  found = program.memory_from_error(
    str(error), params_bytes=0, optimizer_bytes=0, batch_bytes=0, limit=0
  )
  print("needs", found.total // 2**30, "has", found.limit == described.chip.usable_memory)
"""


@pytest.mark.parametrize("where", ["v5e:2x4", "h100:8"])
def test_programs_of_accelerators_are_read_as_those_of_the_cpu(where):
  needs = "libtpu" if where.startswith("v5e") else "jax_cuda12_plugin"
  if importlib.util.find_spec(needs) is None:
    pytest.skip(f"needs the compiler: {needs}")
  environment = {k: v for k, v in os.environ.items() if k not in ("JAX_PLATFORMS", "XLA_FLAGS")}
  paths = [os.path.dirname(__file__), environment.get("PYTHONPATH", "")]
  environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
  command = [sys.executable, "-c", COMPILE_ELSEWHERE, where]
  lines = subprocess.run(
    command, env=environment, check=True, capture_output=True, text=True
  ).stdout.splitlines()
  part = TOKENS // 4 * 64 * 2
  assert set(lines[:4]) == {
    f"{kind} ('{axis}',) {phase} encoder {LAYERS} {part}"
    for kind, axis in [("all-to-all", "expert"), ("all-gather", "model")]
    for phase in ("forward", "backward")
  }
  if where.startswith("v5e"):
    assert lines[4:] == ["needs 64 has True"]
