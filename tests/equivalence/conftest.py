# SPDX-License-Identifier: Apache-2.0
"""One tiny Switch model and its first training steps, compiled once for each way of running them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import optax
import pytest
from batches import teacher_forced
from parameters import random_params

from switch_t5.distill.soft_targets import LiveTeacher
from switch_t5.losses.objective import LossConfig
from switch_t5.metrics.train_metrics import MetricSums
from switch_t5.model.config import ModelConfig
from switch_t5.model.definition import ModelDefinition, define_model
from switch_t5.model.router_config import RouterConfig
from switch_t5.sharding.mesh import MeshShape, make_mesh
from switch_t5.sharding.placement import local_rows, place_batch
from switch_t5.sharding.rules import PARAMETER_RULES
from switch_t5.training.objective import CrossEntropyObjective
from switch_t5.training.state import TrainState, abstract_params, abstract_state, shardings
from switch_t5.training.train_step import build_train_step
from switch_t5.types import HostBatch, PyTree

BATCH_SIZE, ENCODER_LENGTH, DECODER_LENGTH, NUM_STEPS = 16, 12, 9, 3

# Two scanned sparse layers in the encoder, one in the decoder; some tokens are dropped. No noise
# unless a test wants it: random draws are most of a small program's compile time.
QUIET = RouterConfig(exploration="argmax")
CONFIG = ModelConfig(
  vocab_size=128,
  d_model=16,
  d_ff=32,
  d_kv=4,
  num_heads=4,
  num_encoder_layers=2,
  num_decoder_layers=1,
  num_experts=8,
  num_encoder_sparse_layers=2,
  num_decoder_sparse_layers=1,
  sequences_per_group=2,
  min_expert_capacity=1,
  encoder_router=QUIET,
  decoder_router=QUIET,
  activation_dtype="float32",
)
# Groups of one sequence, as a teacher is asked: nothing is dropped, so they are of no account.
TEACHER = dataclasses.replace(CONFIG, sequences_per_group=1)
LOSS = LossConfig(load_balance_factor=0.1, router_z_loss_factor=0.01)


class Run(NamedTuple):
  """What came of a few steps.

  Attributes:
    sums: of each step, on the host.
    gradients: of the first step, by path.
    program: the compiled step's HLO.
    state_bytes: of parameters and optimizer state on one device.
  """

  sums: list[MetricSums]
  gradients: dict[str, np.ndarray]
  program: str
  state_bytes: int


def make_batch(lengths: tuple[int, int]) -> HostBatch:
  """Rows of unequal real lengths, padded to `lengths`; the later rows weigh less."""
  rng = np.random.default_rng(0)
  batch = {}
  for stack, length, longest in zip(
    ("encoder", "decoder"), lengths, (ENCODER_LENGTH, DECODER_LENGTH), strict=True
  ):
    tokens = rng.integers(1, 128, (BATCH_SIZE, longest)).astype(np.int32)
    real = np.arange(longest) < rng.integers(longest // 2, longest + 1, (BATCH_SIZE, 1))
    pad = ((0, 0), (0, length - longest))
    batch[stack] = (np.pad(tokens * real, pad), np.pad(real.astype(np.int32), pad))
  weights = batch["decoder"][1] * np.linspace(1.0, 0.1, BATCH_SIZE)[:, None]
  return teacher_forced(batch["encoder"], batch["decoder"], weights)


@pytest.fixture(scope="session")
def tiny_config() -> ModelConfig:
  return CONFIG


@pytest.fixture(scope="session", name="random_params")
def random_params_fixture() -> Callable[[ModelDefinition], PyTree]:
  return random_params


@pytest.fixture(scope="session")
def tiny_batch() -> Callable[[tuple[int, int]], HostBatch]:
  return make_batch


@pytest.fixture(scope="session")
def train() -> Callable[..., Run]:
  """Trains on one batch: `train(mesh, num_microbatches=..., lengths=..., <changes of the config>)`.

  With `teacher`, a Switch teacher's part is in the loss: s = 0.25, tau = 2.
  """

  # SGD, with the gradients kept in its state for a test to see.
  optimizer = optax.chain(optax.trace(decay=0.0), optax.sgd(0.5))

  @functools.cache
  def train(
    mesh_shape=(1, 1, 1),
    *,
    num_microbatches=1,
    lengths=(ENCODER_LENGTH, DECODER_LENGTH),
    parameter_sharding="replicated",
    teacher=False,
    **changes,
  ) -> Run:
    config = dataclasses.replace(CONFIG, **changes)
    definition = define_model(config)
    mesh = make_mesh(MeshShape(*mesh_shape))
    config.check_mesh(MeshShape(*mesh_shape), BATCH_SIZE, num_microbatches)
    with jax.set_mesh(mesh):
      rules = PARAMETER_RULES[parameter_sharding]
      abstract = abstract_state(definition, optimizer, mesh, rules)
      params = random_params(definition)
      state = TrainState(np.int32(0), params, optimizer.init(params))
      state = jax.device_put(state, shardings(abstract))
      rows = local_rows(mesh, BATCH_SIZE, num_microbatches)
      batch = place_batch(make_batch(lengths), mesh, rows, BATCH_SIZE, num_microbatches)
      soft_targets, frozen = None, None
      if teacher:
        of_teacher = define_model(TEACHER)
        soft_targets = LiveTeacher(of_teacher, 0.25, 2.0, config.vocab_size)
        frozen = jax.device_put(
          random_params(of_teacher), shardings(abstract_params(of_teacher, mesh, rules))
        )
      objective = CrossEntropyObjective(LOSS, config.train_capacity_factor, soft_targets)
      step = build_train_step(
        definition, optimizer, objective, abstract, num_microbatches=num_microbatches
      )
      compiled = step.lower(state, batch, np.uint32(0), frozen).compile(
        {"xla_backend_optimization_level": 0}
      )
      state_bytes = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
      sums, gradients = [], None
      for _ in range(NUM_STEPS):
        state, metrics = compiled(state, batch, np.uint32(0), frozen)
        sums.append(jax.device_get(metrics).sums)
        gradients = jax.device_get(state.opt_state[0].trace) if gradients is None else gradients
    leaves = jax.tree_util.tree_leaves_with_path(gradients)
    by_path = {"/".join(key.key for key in path): leaf for path, leaf in leaves}
    return Run(sums, by_path, compiled.as_text(), state_bytes)

  return train


@pytest.fixture(scope="session")
def assert_same_step() -> Callable[[Run, Run], None]:
  return _assert_same_step


def _assert_same_step(got, want):
  """Sums to 1e-5; each gradient to 1e-5 of its greatest element."""
  for name, a, b in zip(got.sums[0]._fields, got.sums[0], want.sums[0], strict=True):
    if a is b is None:
      continue  # there is no teacher
    np.testing.assert_allclose(a, b, rtol=1e-5, err_msg=name)
  assert got.gradients.keys() == want.gradients.keys()
  for path, gradient in want.gradients.items():
    scale = np.abs(gradient).max()
    assert scale > 0 or path.endswith("router/bias"), path  # no gradient reaches a bias
    np.testing.assert_allclose(
      got.gradients[path], gradient, rtol=1e-5, atol=1e-5 * scale, err_msg=path
    )
