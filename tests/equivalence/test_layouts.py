# SPDX-License-Identifier: Apache-2.0
"""Training is the same on every mesh: losses, counts and gradients, with noise and without."""

from __future__ import annotations

import numpy as np
import pytest

from switch_t5.model.router_config import RouterConfig

LAYOUTS = [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 4, 2), (1, 1, 4)]
FSDP_LAYOUTS = [(8, 1, 1), (2, 2, 2), (4, 2, 1)]


def test_the_model_under_test_drops_tokens_and_trains(train):
  sums = train().sums
  assert (sums[0].num_dropped > 0).all()
  assert sums[-1].loss < sums[0].loss - 0.05


@pytest.mark.parametrize("layout", LAYOUTS)
def test_losses_and_gradients_are_those_of_one_device(train, assert_same_step, layout):
  assert_same_step(train(layout), train())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_first_steps_go_the_same_way(train, layout):
  losses = [[sums.loss for sums in run.sums] for run in (train(layout), train())]
  np.testing.assert_allclose(*losses, rtol=1e-4)


@pytest.mark.parametrize("layout", FSDP_LAYOUTS)
def test_parameters_split_over_data_train_as_on_one_device(train, assert_same_step, layout):
  """And take less room: a device holds 1/data of every kernel, norm and table."""
  replicated, split = train(layout), train(layout, parameter_sharding="fsdp")
  assert_same_step(split, train())
  losses = [[sums.loss for sums in run.sums] for run in (split, train())]
  np.testing.assert_allclose(*losses, rtol=1e-5)
  # What has no axis `embed`: the step, and both stacks' position biases with the optimizer's copies.
  kept = 4 + 4 * 2 * 2 * (4 * 32 // layout[2])
  assert split.state_bytes - kept == (replicated.state_bytes - kept) // layout[0]


def test_accumulated_gradients_of_split_parameters_are_those_of_the_batch(train, assert_same_step):
  assert_same_step(train((2, 2, 1), num_microbatches=2, parameter_sharding="fsdp"), train())


def test_dropout_and_jitter_depend_neither_on_the_mesh_nor_on_microbatches(train, assert_same_step):
  noise = {"dropout_rate": 0.1, "expert_dropout_rate": 0.4}
  noise["encoder_router"] = RouterConfig(jitter_noise=0.05)
  # One sparse encoder layer and one dense decoder layer have every kind of noise.
  small = {"num_encoder_layers": 1, "num_encoder_sparse_layers": 1, "num_decoder_sparse_layers": 0}
  noisy = train(**small, **noise)
  assert_same_step(train((2, 2, 2), **small, **noise), noisy)
  assert_same_step(train((2, 1, 2), num_microbatches=2, **small, **noise), noisy)


def test_the_noise_of_random_routing_without_capacity_does_not_depend_on_microbatches(
  train, assert_same_step
):
  given = {"num_encoder_layers": 1, "num_encoder_sparse_layers": 1, "num_decoder_sparse_layers": 0}
  given |= {"expert_dropout_rate": 0.4, "train_capacity_factor": None}
  given["encoder_router"] = RouterConfig(kind="random")
  assert_same_step(train((2, 2, 1), num_microbatches=2, **given), train(**given))
