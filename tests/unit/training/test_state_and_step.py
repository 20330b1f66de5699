# SPDX-License-Identifier: Apache-2.0
"""The state's birth on any mesh, and the train step: donation, randomness, resuming."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from switch_t5.batch import batch_spec
from switch_t5.checkpoint.manager import CheckpointManager
from switch_t5.errors import MeshError
from switch_t5.losses.objective import LossConfig
from switch_t5.model.config import ModelConfig
from switch_t5.model.definition import define_model
from switch_t5.model.router_config import RouterConfig
from switch_t5.optim.adafactor import adafactor, num_batch_axes
from switch_t5.sharding.mesh import MeshShape, make_mesh
from switch_t5.sharding.rules import PARAMETER_RULES
from switch_t5.training.eval_step import build_eval_step
from switch_t5.training.init import init_state
from switch_t5.training.objective import CrossEntropyObjective
from switch_t5.training.state import TrainState, abstract_state, shardings
from switch_t5.training.train_step import build_train_step
from switch_t5.types import DeviceBatch, PyTree

CONFIG = ModelConfig(
  vocab_size=128,
  d_model=16,
  d_ff=32,
  d_kv=4,
  num_heads=4,
  num_encoder_layers=2,
  num_decoder_layers=1,
  num_experts=4,
  num_encoder_sparse_layers=2,
  sequences_per_group=1,
  encoder_router=RouterConfig(jitter_noise=0.3),
  decoder_router=RouterConfig(jitter_noise=0.3),
  activation_dtype="float32",
)
DEFINITION = define_model(CONFIG)


def make_optimizer() -> optax.GradientTransformation:
  batch_axes = jax.tree.map(
    num_batch_axes, DEFINITION.axes, is_leaf=lambda axes: isinstance(axes, tuple)
  )
  rate = optax.constant_schedule(0.05)
  return adafactor(rate, batch_axes=batch_axes, min_dim_size_to_factor=16)


def lay_out(mesh_shape, parameter_sharding="replicated") -> TrainState:
  rules = PARAMETER_RULES[parameter_sharding]
  return abstract_state(DEFINITION, make_optimizer(), make_mesh(MeshShape(*mesh_shape)), rules)


def birth(mesh_shape, seed=0, parameter_sharding="replicated") -> TrainState:
  abstract = lay_out(mesh_shape, parameter_sharding)
  with jax.set_mesh(abstract.step.sharding.mesh):
    return init_state(DEFINITION, make_optimizer(), abstract, seed)


@pytest.fixture(scope="module")
def born() -> TrainState:
  """The state of seed 0 on one device, on the host."""
  return jax.device_get(birth((1, 1, 1)))


def assert_identical(got: PyTree, want: PyTree) -> None:
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(got), jax.device_get(want))


@pytest.mark.smoke
def test_a_state_is_born_sharded_with_the_same_bits_on_any_mesh(born):
  state = birth((2, 2, 2))
  assert_identical(state, born)
  wi = state.params["encoder"]["blocks"]["layers_0"]["mlp"]["expert"]["wi"]["kernel"]
  assert wi.shape == (2, 4, 16, 32)
  assert {shard.data.shape for shard in wi.addressable_shards} == {(2, 2, 16, 16)}
  moments = state.opt_state.v_row["encoder"]["blocks"]["layers_0"]["mlp"]["expert"]["wi"]["kernel"]
  assert {shard.data.shape[:2] for shard in moments.addressable_shards} == {(2, 2)}


def test_split_over_data_it_has_the_same_bits_and_a_checkpoint_restores_either_way(born, tmp_path):
  shapes = {"replicated": (2, 2, 16, 16), "fsdp": (2, 2, 8, 16)}
  states = {way: birth((2, 2, 2), parameter_sharding=way) for way in shapes}
  for saved, restored in (("replicated", "fsdp"), ("fsdp", "replicated")):
    manager = CheckpointManager(tmp_path / saved)
    manager.save(1, states[saved], data_state={}, config_text="")
    state = manager.restore(lay_out((2, 2, 2), restored)).state
    manager.close()
    assert_identical(state, born)
    wi = state.params["encoder"]["blocks"]["layers_0"]["mlp"]["expert"]["wi"]["kernel"]
    assert {shard.data.shape for shard in wi.addressable_shards} == {shapes[restored]}


def test_layers_experts_and_seeds_draw_their_own_values(born):
  wi = born.params["encoder"]["blocks"]["layers_0"]["mlp"]["expert"]["wi"]["kernel"]
  assert len({expert.tobytes() for layer in wi for expert in layer}) == 2 * 4
  draw = jax.jit(lambda key: DEFINITION.init(key)["token_embedder"]["embedding"])
  embedding = born.params["token_embedder"]["embedding"]
  np.testing.assert_array_equal(draw(jax.random.key(0)), embedding)
  assert not (draw(jax.random.key(1)) == embedding).any()


def test_a_parameter_that_does_not_divide_is_refused_by_its_path():
  mesh = make_mesh(MeshShape(1, 8, 1))  # four experts
  with pytest.raises(MeshError, match="expert"):
    abstract_state(DEFINITION, make_optimizer(), mesh)


def test_an_abstract_state_has_the_shapes_and_types_of_a_real_one(born):
  abstract = abstract_state(DEFINITION, make_optimizer(), make_mesh(MeshShape()))
  assert jax.tree.structure(abstract) == jax.tree.structure(born)
  same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), abstract, born)
  assert all(jax.tree.leaves(same))


class Trainer(NamedTuple):
  """A compiled step with jitter, a batch, and how to put a state where the step wants it."""

  step: Callable
  batch: DeviceBatch
  place: Callable[[TrainState], TrainState]


@pytest.fixture(scope="module")
def trainer():
  mesh, optimizer = make_mesh(MeshShape()), make_optimizer()
  rng = np.random.default_rng(0)
  spec = batch_spec((1, 4), encoder_length=6, decoder_length=5)
  batch = {
    name: jnp.asarray(rng.integers(1, 128, leaf.shape), leaf.dtype)
    if "tokens" in name
    else jnp.ones(leaf.shape, leaf.dtype)
    for name, leaf in spec.items()
  }
  with jax.set_mesh(mesh):
    abstract = abstract_state(DEFINITION, optimizer, mesh)
    objective = CrossEntropyObjective(LossConfig(), CONFIG.train_capacity_factor)
    step = build_train_step(DEFINITION, optimizer, objective, abstract, num_microbatches=1)
    compiled = step.lower(abstract, batch, np.uint32(7)).compile(
      {"xla_backend_optimization_level": 0}
    )
    place = lambda state: jax.device_put(state, shardings(abstract))  # noqa: E731
    yield Trainer(compiled, batch, place)


def test_a_step_takes_the_old_states_buffers(trainer, born):
  state = trainer.place(born)
  after, metrics = trainer.step(state, trainer.batch, np.uint32(7))
  # All but the placeholders of moments that a leaf does not use: these are no input of the program.
  kept = [leaf.shape for leaf in jax.tree.leaves(state) if not leaf.is_deleted()]
  assert all(shape[-1:] == (1,) for shape in kept)
  assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((after, metrics, trainer.batch)))
  assert (int(after.step), int(after.opt_state.count)) == (1, 1)
  changed = jax.tree.map(lambda a, b: (a != b).any(), jax.device_get(after.params), born.params)
  assert all(jax.tree.leaves(changed))


def test_the_same_seed_is_the_same_run_and_a_resumed_one_draws_what_it_would_have(trainer, born):
  def go(state, steps):
    state, history = trainer.place(state), []
    for _ in range(steps):
      state, metrics = trainer.step(state, trainer.batch, np.uint32(7))
      history.append(jax.device_get((state, metrics)))
    return history

  undisturbed = go(born, 4)
  assert_identical(go(born, 4), undisturbed)
  saved, _ = undisturbed[1]
  assert_identical(go(saved, 2), undisturbed[2:])


def test_each_step_has_its_own_noise(trainer, born):
  _, first = trainer.step(trainer.place(born), trainer.batch, np.uint32(7))
  _, later = trainer.step(
    trainer.place(born._replace(step=np.int32(5))), trainer.batch, np.uint32(7)
  )
  assert first.sums.cross_entropy != later.sums.cross_entropy


@pytest.fixture(scope="module")
def evaluate(born):
  """Evaluates the state's parameters on a batch, in as many microbatches as it has."""
  mesh = make_mesh(MeshShape())
  objective = CrossEntropyObjective(LossConfig(), capacity_factor=4.0)
  steps = {n: build_eval_step(DEFINITION, objective, mesh, n) for n in (1, 2)}

  def evaluate(batch):
    with jax.set_mesh(mesh):
      step = steps[len(batch["decoder_loss_weights"])]
      return jax.device_get(step(born.params, batch).sums)

  return evaluate


def test_evaluation_has_no_noise_and_adds_microbatches_up(trainer, evaluate):
  batch = dict(trainer.batch)
  batch["decoder_loss_weights"] = batch["decoder_loss_weights"].at[0, 3].set(0.0)
  whole = evaluate(batch)
  assert_identical(evaluate(batch), whole)
  assert whole.weight == 15 and whole.num_dropped.sum() == 0
  parts = evaluate({name: array.reshape(2, 2, -1) for name, array in batch.items()})
  jax.tree.map(lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-5), parts, whole)


def test_a_batch_of_padding_alone_evaluates_to_nothing(trainer, evaluate):
  for value in jax.tree.leaves(evaluate(jax.tree.map(jnp.zeros_like, trainer.batch))):
    np.testing.assert_array_equal(value, np.zeros_like(value))
