# SPDX-License-Identifier: Apache-2.0
"""A plan in closed form: against the traced step, the compiler, and what was measured."""

from __future__ import annotations

import dataclasses
import math

import jax
import numpy as np
import optax
import pytest
from planned import T5_BASE, arrays

from switch_t5.batch import batch_spec
from switch_t5.losses.objective import LossConfig
from switch_t5.model.config import ModelConfig
from switch_t5.model.definition import define_model
from switch_t5.planning import flops, memory
from switch_t5.planning.estimate import dropped, estimate, flops_by_dtype, network_bytes, time
from switch_t5.planning.plan import Collective
from switch_t5.planning.step import Step
from switch_t5.planning.topology import parse
from switch_t5.sharding.mesh import MeshShape, make_mesh
from switch_t5.sharding.placement import batch_sharding
from switch_t5.training.objective import CrossEntropyObjective
from switch_t5.training.state import abstract_state
from switch_t5.training.train_step import build_train_step


def switch(experts: int, model: ModelConfig = T5_BASE, **changes) -> ModelConfig:
  stacks = ("encoder", "decoder")
  return dataclasses.replace(
    model,
    num_experts=experts,
    **{f"num_{s}_sparse_layers": getattr(model, f"num_{s}_layers") // 2 for s in stacks},
    **{"sequences_per_group": 16} | changes,
  )


def step(model, mesh=(1, 1, 1), **changes) -> Step:
  given = {"kind": "train", "rows": 64, "lengths": (512, 114)} | changes
  return Step(model=model, mesh=MeshShape(*mesh), **given)


def traced(planned: Step) -> jax.stages.Traced:
  definition, optimizer = define_model(planned.model), optax.sgd(0.1)
  mesh = make_mesh(planned.mesh)
  parts = planned.microbatches
  with jax.set_mesh(mesh):
    state = abstract_state(definition, optimizer, mesh)
    objective = CrossEntropyObjective(LossConfig(), planned.model.train_capacity_factor)
    train_step = build_train_step(definition, optimizer, objective, state, num_microbatches=parts)
    batch = {
      name: jax.ShapeDtypeStruct(spec.shape, spec.dtype, sharding=batch_sharding(mesh))
      for name, spec in batch_spec((parts, planned.rows // parts), *planned.lengths).items()
    }
    return train_step.trace(state, batch, np.uint32(0))


SHALLOW = dataclasses.replace(T5_BASE, num_encoder_layers=2, num_decoder_layers=2)


DROPLESS = switch(8, SHALLOW, train_capacity_factor=None)


@pytest.mark.parametrize(
  ("model", "remat"),
  [(SHALLOW, "full"), (switch(8, SHALLOW), "attention"), (DROPLESS, "full")],
  ids=["dense", "switch", "dropless"],
)
def test_flops_are_those_of_the_traced_step(model, remat):
  planned = step(dataclasses.replace(model, remat=remat), (1, 4, 1), rows=128, microbatches=2)
  found, expected = flops_by_dtype(planned), flops.count(traced(planned), 4)
  assert set(found) == set(expected)
  for dtype in expected:  # which has a few products more, of the loss
    assert found[dtype] == pytest.approx(expected[dtype], rel=1e-3)


@pytest.mark.parametrize(
  ("model", "gigabytes", "within"),
  [
    (T5_BASE, 39.29, 0.03),
    (switch(8), 46.73, 0.03),
    (switch(32), 60.41, 0.03),
    (dataclasses.replace(T5_BASE, remat="full"), 5.60, 0.15),
  ],
  ids=["t5_base", "switch_base_8", "switch_base_32", "remat"],
)
def test_memory_is_what_was_measured_on_an_h100(model, gigabytes, within):
  """64 rows of 512 and 114 tokens, bfloat16, Adafactor, JAX 0.11: the device's peak."""
  found = memory.memory(step(model), arrays(model), 60 * 10**9)
  assert found.total / 1e9 == pytest.approx(gigabytes, rel=within)
  assert sum(found.kinds.values()) == found.total and not found.exact


def test_memory_is_what_the_compiler_for_the_tpu_says():
  """Switch-Base with 128 experts on 64 chips of v5p, 32 rows each: 1.58 + 21.5 + 0.14 GB."""
  model = switch(128)
  found = memory.memory(step(model, (2, 32, 1), rows=2048), arrays(model), 1)
  assert found.total / 1e9 == pytest.approx(23.2, rel=0.05)
  assert not found.fits


def test_memory_is_within_a_fifth_of_what_the_compiler_for_the_cpu_says():
  """Which keeps copies that the others do not."""
  tiny = dataclasses.replace(
    switch(8, SHALLOW, sequences_per_group=2),
    **{"vocab_size": 1024, "d_model": 64, "d_ff": 256, "d_kv": 16, "num_heads": 4},
    activation_dtype="float32",
  )
  planned = step(tiny, (1, 4, 1), rows=32, lengths=(128, 64), microbatches=2)
  with jax.set_mesh(make_mesh(planned.mesh)):
    program = traced(planned).lower().compile({"xla_backend_optimization_level": 0})
  said = program.memory_analysis()
  compiled = said.argument_size_in_bytes + said.temp_size_in_bytes + said.output_size_in_bytes
  compiled -= said.alias_size_in_bytes
  found = memory.memory(planned, arrays(tiny), 1).total
  assert found == pytest.approx(compiled, rel=0.2)


def test_memory_falls_with_each_remedy():
  model, state = switch(8), arrays(switch(8))

  def total(**changes):
    remat = changes.pop("remat", "none")
    planned = step(dataclasses.replace(model, remat=remat), (4, 2, 1), rows=512, **changes)
    return memory.memory(planned, state, 1).total

  assert total(remat="full") < total(remat="attention") < total()
  assert total(parameter_sharding="fsdp") < total()
  assert total(microbatches=4) < total()


@pytest.mark.smoke
def test_the_roofline_is_arithmetic():
  planned, chip = step(T5_BASE, (4, 1, 1)), parse("h100:4").chip
  gradients = Collective("all-reduce", ("data",), "backward", "", 2, 10**9)
  found = time(planned, chip, 1, {"bfloat16": 989e12 / 2}, 3.35e12, [gradients])
  assert found.compute == pytest.approx(0.5)
  assert found.memory == pytest.approx(1.0)
  assert found.networks == {
    "fast": pytest.approx(2 * 2 * 0.75 * 1e9 / chip.fast_bandwidth),
    "slow": 0,
  }
  assert found.step == found.memory and found.bound == "memory"
  assert found.tokens_per_second == pytest.approx(64 * 626)
  forward = 124.57e9
  assert found.model_flops_utilization == pytest.approx(3 * 64 * forward / (4 * 989e12), rel=1e-3)


def test_between_slices_goes_each_devices_part():
  """An all-reduce over 4 devices in each of 2 slices: a quarter of it meets its other half."""
  mesh = MeshShape(8, 1, 1)
  sent = Collective("all-reduce", ("data",), "backward", "", 1, 1000, crosses_slices=True)
  assert network_bytes(sent, mesh, 2) == (2 * 0.75 * 1000, 2 * 0.5 * 250)
  scattered = dataclasses.replace(sent, kind="reduce-scatter")
  gathered = dataclasses.replace(sent, kind="all-gather", bytes=125)
  assert network_bytes(scattered, mesh, 2) == (750, 125)
  assert network_bytes(gathered, mesh, 2) == (750, 125)
  within = dataclasses.replace(sent, crosses_slices=False)
  assert network_bytes(within, mesh, 2) == (2 * 7 / 8 * 1000, 0)


def test_drops_are_those_of_an_even_router():
  found = dropped(step(switch(128, sequences_per_group=8), rows=1024))
  assert found["encoder"] == pytest.approx(0.0062, abs=1e-4)  # 4,096 tokens of 128 experts
  assert found["decoder"] > 0.05  # 912 tokens
  assert dropped(step(switch(128, train_capacity_factor=None)))["encoder"] == 0.0
  assert dropped(step(T5_BASE)) == {}


def test_a_plan_says_what_a_run_needs():
  model, topology = switch(128), parse("v5p:4x4x4")
  plan = estimate(step(model, (2, 32, 1), rows=2048), arrays(model), topology)
  assert plan.work.parameters / 1e6 == pytest.approx(7415, abs=0.5)
  assert plan.checkpoint_bytes > 4 * plan.work.parameters
  assert plan.checkpoint_seconds == pytest.approx(plan.checkpoint_bytes / 16e9)
  assert plan.rows_per_second == pytest.approx(2048 / plan.time.step)
  assert plan.flops.model == pytest.approx(3 * 2048 * 124.57e9, rel=1e-3)
  assert plan.memory.fits and plan.place.mesh == {"data": 2, "expert": 32, "model": 1}
  assert math.isfinite(plan.time.step) and plan.bounds and not plan.collectives
