# SPDX-License-Identifier: Apache-2.0
"""What arrays of a checkpoint can be, whatever format it has."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import stored

from switch_t5.errors import CheckpointError
from switch_t5.interop.checkpoint import PARAM_STATES, PARAMETERS, STEP, check_kinds

SCALE = "encoder/encoder_norm/scale"
EXPERTS = "encoder/layers_1/mlp/expert/wi/kernel"
KERNEL = "encoder/layers_0/attention/query/kernel"


def changed(**arrays: np.ndarray):
  """A checkpoint of a Switch model with other arrays in it."""
  whole = stored.checkpoint(stored.switch())
  return dataclasses.replace(
    whole, arrays=whole.arrays | {name: stored.array(values) for name, values in arrays.items()}
  )


def test_a_checkpoint_as_t5x_has_it_is_accepted():
  check_kinds(changed())
  check_kinds(changed(**{f"{PARAM_STATES}{EXPERTS}/m": np.zeros((4, 16, 32), np.float32)}))


@pytest.mark.parametrize("name", [PARAMETERS + SCALE, f"{PARAM_STATES}{SCALE}/v"])
def test_parameters_and_second_moments_are_floats(name):
  with pytest.raises(CheckpointError, match=rf"memory: {name}: int32\[16\]"):
    check_kinds(changed(**{name: np.zeros(16, np.int32)}))


@pytest.mark.parametrize("shape", [(), (2,), (16, 1), (16, 32, 1), (1, 16, 32)])
@pytest.mark.parametrize("slot", ["m", "v", "v_row", "v_col"])
@pytest.mark.parametrize("parameter", [SCALE, EXPERTS])
def test_a_second_moment_of_another_shape_is_refused(parameter, slot, shape):
  name = f"{PARAM_STATES}{parameter}/{slot}"
  with pytest.raises(CheckpointError, match=f"{name}: float32"):
    check_kinds(changed(**{name: np.zeros(shape, np.float32)}))


@pytest.mark.parametrize(
  "name, shape",
  [
    *((f"{EXPERTS}/v", (4, 16, 32)), (f"{EXPERTS}/v_row", (1,)), (f"{EXPERTS}/v_col", (1,))),
    *((f"{SCALE}/v", (1,)), (f"{KERNEL}/v_row", (16,)), (f"{KERNEL}/v_col", (16,))),
  ],
)
def test_a_second_moment_is_whole_or_in_two_factors(name, shape):
  with pytest.raises(CheckpointError, match=f"{name.rpartition('/')[0]}: v float32"):
    check_kinds(changed(**{PARAM_STATES + name: np.zeros(shape, np.float32)}))


@pytest.mark.parametrize(
  "step",
  [
    np.asarray(-1),
    np.asarray(1 << 31),
    np.asarray((1 << 64) - 1, np.uint64),
    np.asarray(7.0, np.float32),
    np.asarray(np.nan, np.float32),
    np.asarray([7, 8]),
    np.asarray([7]),
  ],
  ids=str,
)
def test_a_step_that_is_none_is_refused(step):
  with pytest.raises(CheckpointError, match="memory: state/step: "):
    _ = changed(**{STEP: step}).step


def test_the_largest_step_is_read():
  assert changed(**{STEP: np.asarray((1 << 31) - 1)}).step == (1 << 31) - 1


def test_a_name_that_a_terminal_would_obey_is_refused():
  with pytest.raises(CheckpointError, match=r"memory: the name 'state/.x1b.2J'"):
    check_kinds(changed(**{"state/\x1b[2J": np.zeros(2, np.float32)}))
