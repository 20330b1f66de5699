# SPDX-License-Identifier: Apache-2.0
"""A dense student of a sparse teacher: the same step on every mesh, in microbatches too."""

from __future__ import annotations

import numpy as np
import pytest

DENSE = {
  "num_experts": 0,
  "num_encoder_sparse_layers": 0,
  "num_decoder_sparse_layers": 0,
  "sequences_per_group": None,
  "min_expert_capacity": 4,
}


@pytest.mark.parametrize("layout", [(2, 2, 2)])
def test_the_step_with_a_teacher_is_that_of_one_device(train, assert_same_step, layout):
  assert_same_step(train(layout, teacher=True, **DENSE), train(teacher=True, **DENSE))


def test_microbatches_add_up_to_the_step_with_a_teacher(train, assert_same_step):
  halves = train(num_microbatches=2, teacher=True, **DENSE)
  assert_same_step(halves, train(teacher=True, **DENSE))


def test_a_teacher_split_over_data_says_the_same(train, assert_same_step):
  split = train((4, 2, 1), parameter_sharding="fsdp", teacher=True, **DENSE)
  assert_same_step(split, train(teacher=True, **DENSE))


def test_the_teacher_changes_the_loss_by_its_part_alone(train):
  """(1 - s) hard + s tau^2 soft, s = 0.25, tau = 2, and what else is in the loss."""
  plain, distilled = (train(teacher=t, **DENSE).sums[0] for t in (False, True))
  for name in ("cross_entropy", "z_loss", "correct", "weight"):
    np.testing.assert_allclose(getattr(distilled, name), getattr(plain, name), rtol=1e-6)
  soft = 0.25 * (4.0 * distilled.soft_cross_entropy - distilled.cross_entropy)
  np.testing.assert_allclose(distilled.loss, plain.loss + soft / plain.weight, rtol=1e-5)
