# SPDX-License-Identifier: Apache-2.0
"""Checkpoints on an object store: what has a manifest is one."""

from __future__ import annotations

import jax.numpy as jnp
import pytest

from switch_t5.checkpoint.listing import list_steps, verify_checkpoint
from switch_t5.checkpoint.manager import CheckpointManager
from switch_t5.checkpoint.manifest import MANIFEST, UNFINISHED
from switch_t5.errors import CheckpointError
from switch_t5.storage import objects
from switch_t5.storage.location import location

STATE = {"params": {"kernel": jnp.arange(12.0)}}


@pytest.fixture
def directory(gs_prefix):
  return location(gs_prefix) / "checkpoints"


def save(directory, *steps, keep=5, protected=None):
  """Saves steps as one run does, that goes on from what is there."""
  manager = CheckpointManager(directory, keep=keep)
  manager.restore(STATE)
  manager.protect(protected)
  for step in steps:
    manager.save(step, STATE, data_state={"step": step}, config_text="")
  manager.close()


def test_saved_and_restored_on_either_store(remote_prefix):
  directory = location(remote_prefix) / "checkpoints"
  save(directory, 1, 2, 3, keep=2, protected=1)
  assert list_steps(directory) == [1, 2, 3]
  assert [verify_checkpoint(directory / f"checkpoint_{step}") for step in (1, 2, 3)] == [[]] * 3
  save(directory, 4, keep=2)
  assert list_steps(directory) == [3, 4]
  assert not objects.exists(directory / "checkpoint_2")


def test_what_a_killed_save_left_is_none_and_goes_but_what_others_put_there_stays(directory):
  save(directory, 1, 2)
  objects.write(directory / "checkpoint_2" / UNFINISHED, b"")  # killed before the manifest
  objects.delete(directory / "checkpoint_2" / MANIFEST)
  objects.write(directory / "checkpoint_7" / "weights", b"another program's")
  assert list_steps(directory) == [1]
  save(directory, 3)
  assert list_steps(directory) == [1, 3]
  assert not objects.exists(directory / "checkpoint_2")
  assert objects.read(directory / "checkpoint_7" / "weights") == b"another program's"
  with pytest.raises(CheckpointError, match="step 7"):
    save(directory, 7)


def test_a_damaged_one_is_passed_over_and_set_aside(directory):
  save(directory, 1, 2)
  objects.write(directory / "checkpoint_2" / "data_state.json", b'{"step": 3}')
  manager = CheckpointManager(directory)
  restored = manager.restore(STATE)
  assert restored.step == 1 and [bad.step for bad in restored.skipped] == [2]
  manager.save(2, STATE, data_state={}, config_text="")
  manager.close()
  assert list_steps(directory) == [1, 2]
  assert verify_checkpoint(directory / "checkpoint_2") == []
  aside = directory / "checkpoint_2.set_aside"
  assert [problem.file for problem in verify_checkpoint(aside)] == ["data_state.json"]
