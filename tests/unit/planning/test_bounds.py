# SPDX-License-Identifier: Apache-2.0
"""The least that a layout sends: the paper's own numbers, and a compiled step."""

from __future__ import annotations

import dataclasses
from collections import Counter

import jax
import numpy as np
import optax
import pytest
from collectives import collectives
from planned import SWITCH_BASE

from switch_t5.batch import batch_spec
from switch_t5.losses.objective import LossConfig
from switch_t5.model.config import ModelConfig
from switch_t5.model.definition import define_model
from switch_t5.model.router_config import RouterConfig
from switch_t5.planning import program
from switch_t5.planning.bounds import bounds, least, wire_bytes
from switch_t5.planning.plan import Collective
from switch_t5.planning.step import Step, device_bytes, parameters, state_arrays
from switch_t5.sharding.mesh import MeshShape, make_mesh
from switch_t5.sharding.placement import batch_sharding
from switch_t5.sharding.rules import PARAMETER_RULES
from switch_t5.training import state as training_state
from switch_t5.training.objective import CrossEntropyObjective
from switch_t5.training.train_step import build_train_step

QUIET = RouterConfig(exploration="argmax")
# One block in each stack: no loop that would run a collective more often than the text says it.
TINY = ModelConfig(
  vocab_size=128,
  d_model=16,
  d_ff=32,
  d_kv=4,
  num_heads=4,
  num_encoder_layers=1,
  num_decoder_layers=1,
  num_experts=8,
  num_encoder_sparse_layers=1,
  num_decoder_sparse_layers=1,
  sequences_per_group=2,
  min_expert_capacity=1,
  encoder_router=QUIET,
  decoder_router=QUIET,
  activation_dtype="float32",
)
LENGTHS, ROWS = (12, 9), 16


def step(mesh, model=SWITCH_BASE, **changes) -> Step:
  given = {"kind": "train", "rows": 2048, "lengths": (512, 114)} | changes
  return Step(model=model, mesh=MeshShape(*mesh), **given)


def total(found, kind=None, axes=None, what="") -> int:
  return sum(
    c.total for c in found if kind in (None, c.kind) and axes in (None, c.axes) and what in c.what
  )


@pytest.mark.smoke
def test_the_papers_all_to_all_is_63_megabytes_and_252_a_layer():
  """Section 5.4 with T1's 32 cores and 2**20 tokens: 4 experts on each core, capacity factor 1.25."""
  found = [c for c in bounds(step((1, 32, 1))) if c.kind == "all-to-all" and c.where == "encoder"]
  assert {c.bytes for c in found} == {62_914_560}
  assert sum(c.total for c in found) / 6 == 4 * 62_914_560
  assert Counter(c.phase for c in found) == {"forward": 2, "backward": 2}
  # Of which 31/32 go to others, and a fifth is empty places.
  tokens = 4 * 31 / 32 * 32768 * 768 * 2 * 6
  assert sum(wire_bytes(c, MeshShape(1, 32, 1)) for c in found) == pytest.approx(1.25 * tokens)
  decoder = 4 * 31 / 32 * 64 * 114 * 768 * 2 * 6
  assert least(step((1, 32, 1)))["tokens"] == pytest.approx(tokens + decoder)


def test_data_parallelism_sends_the_gradients_alone():
  model = dataclasses.replace(SWITCH_BASE, activation_dtype="float32")
  found = bounds(step((8, 1, 1), model))
  assert {(c.kind, c.axes, c.phase) for c in found} == {("all-reduce", ("data",), "backward")}
  assert total(found) == 4 * sum(leaf.numbers(MeshShape()) for leaf in parameters(model))


def test_experts_over_all_devices_send_no_gradient_of_theirs():
  found = bounds(step((1, 32, 1)))
  assert not total(found, what="of experts")
  assert total(bounds(step((2, 16, 1))), axes=("data",), what="of experts") > 0


def test_the_model_axis_divides_what_travels_over_expert():
  whole, half = (total(bounds(step(mesh)), "all-to-all") for mesh in ((1, 32, 1), (1, 32, 2)))
  assert whole == 2 * half


def test_rematerialisation_repeats_no_all_to_all_and_gathers_split_parameters_again():
  plain, full = (
    bounds(
      step((2, 4, 2), dataclasses.replace(SWITCH_BASE, remat=remat), parameter_sharding="fsdp")
    )
    for remat in ("none", "full")
  )
  assert total(plain, "all-to-all") == total(full, "all-to-all")
  inside = [c for c in plain if c.kind == "all-gather" and c.axes == ("data",) and c.where]
  added = total(full, "all-gather", ("data",)) - total(plain, "all-gather", ("data",))
  assert added == sum(c.total for c in inside)


def test_microbatches_sum_gradients_each_time_and_send_no_more_tokens():
  once, four = (bounds(step((2, 16, 1), microbatches=n)) for n in (1, 4))
  assert total(four, "all-to-all") == total(once, "all-to-all")
  assert total(four, "all-reduce") == 4 * total(once, "all-reduce")


def test_only_data_crosses_slices():
  found = bounds(step((2, 16, 2)), slices=2)
  assert {c.crosses_slices for c in found if "data" in c.axes} == {True}
  assert {c.crosses_slices for c in found if "data" not in c.axes} == {False}


def test_without_capacity_the_rows_are_those_of_the_choices():
  model = dataclasses.replace(SWITCH_BASE, train_capacity_factor=None)
  found = [c for c in bounds(step((1, 32, 1), model)) if c.where == "encoder"]
  assert {c.bytes for c in found if c.kind == "ragged-all-to-all"} == {32768 * 768 * 2}


def test_inference_has_no_backward_pass_and_decodes_each_position():
  found = bounds(step((1, 8, 2), kind="infer", rows=16))
  assert {c.phase for c in found} == {"forward"}
  sent = [c for c in found if c.kind == "ragged-all-to-all" and c.where == "decoder"]
  there_and_back = Counter()
  for c in sent:
    there_and_back[c.bytes] += c.times
  assert there_and_back == {2 * 768 * 2 // 2: 2 * 6 * 114}


def test_wires_carry_what_a_ring_sends():
  mesh = MeshShape(1, 4, 2)
  sent = {
    kind: wire_bytes(Collective(kind, ("expert",), "forward", "", 3, 100), mesh)
    for kind in ("all-reduce", "all-gather", "reduce-scatter", "all-to-all")
  }
  assert sent == {"all-reduce": 450, "all-gather": 900, "reduce-scatter": 225, "all-to-all": 225}


@pytest.mark.parametrize("way", ["replicated", "fsdp"])
def test_the_states_bytes_are_those_of_its_shards(way):
  mesh, definition = MeshShape(2, 2, 2), define_model(TINY)
  optimizer = optax.adam(1e-3)
  arrays = state_arrays(definition, optimizer)
  abstract = training_state.abstract_state(
    definition, optimizer, make_mesh(mesh), PARAMETER_RULES[way]
  )
  planned = step(mesh, TINY, parameter_sharding=way)
  assert device_bytes(arrays.params, planned) == training_state.device_bytes(abstract.params)
  assert device_bytes(arrays.optimizer, planned) == training_state.device_bytes(abstract.opt_state)


def compiled(planned: Step) -> str:
  """The step's program on eight CPU devices."""
  definition, optimizer = define_model(planned.model), optax.sgd(0.1)
  mesh = make_mesh(planned.mesh)
  with jax.set_mesh(mesh):
    state = training_state.abstract_state(
      definition, optimizer, mesh, PARAMETER_RULES[planned.parameter_sharding]
    )
    objective = CrossEntropyObjective(LossConfig(), planned.model.train_capacity_factor)
    train_step = build_train_step(definition, optimizer, objective, state, num_microbatches=1)
    batch = {
      name: jax.ShapeDtypeStruct(spec.shape, spec.dtype, sharding=batch_sharding(mesh))
      for name, spec in batch_spec((1, planned.rows), *planned.lengths).items()
    }
    lowered = train_step.lower(state, batch, np.uint32(0))
    return lowered.compile({"xla_backend_optimization_level": 0}).as_text()


@pytest.fixture(scope="module")
def on_eight() -> tuple[Step, str]:
  """A step with all three axes, and its program."""
  planned = step((2, 2, 2), TINY, rows=ROWS, lengths=LENGTHS)
  return planned, compiled(planned)


def test_a_compiled_step_sends_the_tokens_that_the_bound_says(on_eight):
  planned, text = on_eight
  expected: Counter = Counter()
  for c in bounds(planned):
    if c.kind != "all-reduce":
      # The bound counts operands, the text says results.
      results = {"all-gather": planned.mesh.model, "reduce-scatter": 1 / planned.mesh.model}
      expected[c.kind, int(c.bytes * results.get(c.kind, 1))] += c.times
  found = Counter((c.kind, 4 * sum(c.sizes)) for c in collectives(text) if c.kind != "all-reduce")
  assert found == expected


def test_a_compiled_step_sums_each_gradient_once(on_eight):
  """The embedding's too, which two lookups and the logits have."""
  planned, text = on_eight

  def summed(found, *axes):
    return sum(c.total for c in found if c.axes == axes and c.phase == "backward")

  found, least = program.collectives(text, make_mesh(planned.mesh)), bounds(planned)
  assert summed(found, "data") == summed(least, "data")
  more = summed(found, "data", "expert") - summed(least, "data", "expert")
  assert 0 <= more < 200  # bytes: some numbers of the loss and the routers
