# SPDX-License-Identifier: Apache-2.0
"""Saving and restoring a sharded state in one process."""

from __future__ import annotations

import errno
import functools
import json
import shutil
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from switch_t5.checkpoint import manager as manager_module
from switch_t5.checkpoint.listing import list_steps, step_path, verify_checkpoint
from switch_t5.checkpoint.manager import CheckpointManager
from switch_t5.errors import CheckpointError, ConfigError
from switch_t5.sharding.mesh import MeshShape, make_mesh


class Moments(NamedTuple):
  """An optimizer state in the manner of optax: a named tuple with an empty part."""

  count: jax.Array
  nu: dict
  empty: tuple


def arrays(seed: int):
  """Host arrays of a small state: every dtype that training has, and a tuple of layers."""
  rng = np.random.default_rng(seed)
  return {
    "params": {
      "experts": rng.standard_normal((8, 16, 32)).astype(np.float32),
      "layers": [rng.standard_normal((16, 8)).astype(jnp.bfloat16) for _ in range(2)],
    },
    "optimizer": Moments(
      np.int32(seed), {"experts": rng.standard_normal((8, 32)).astype(np.float32)}, ()
    ),
    "flags": rng.integers(0, 2, 5).astype(bool),
  }


_SPECS = {
  3: PartitionSpec("expert", None, "model"),
  2: PartitionSpec("data", "model"),
  1: PartitionSpec(),
  0: PartitionSpec(),
}


def sharded(host, mesh_shape=(2, 2, 2)):
  mesh = make_mesh(MeshShape(*mesh_shape))
  return jax.tree.map(lambda x: jax.device_put(x, NamedSharding(mesh, _SPECS[x.ndim])), host)


def abstract(state):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def assert_same_bits(state, host):
  def check(got, want):
    assert isinstance(got, jax.Array)
    assert got.dtype == want.dtype
    assert np.asarray(got).tobytes() == np.asarray(want).tobytes()

  jax.tree.map(check, state, host)


@pytest.fixture
def manager(tmp_path):
  manager = CheckpointManager(tmp_path / "checkpoints")
  yield manager
  manager.close()


def save(manager, step, state=None):
  manager.save(
    step,
    sharded(arrays(step)) if state is None else state,
    data_state={"rows": 32 * step},
    config_text=f"TRAIN_STEPS = {step}\n",
  )


def directory(tmp_path):
  return tmp_path / "checkpoints"


def test_what_was_saved_is_restored_bit_for_bit(manager):
  save(manager, 5)
  restored = manager.restore(abstract(sharded(arrays(0))))
  assert_same_bits(restored.state, arrays(5))
  assert jax.tree.structure(restored.state) == jax.tree.structure(arrays(5))
  assert (restored.step, restored.skipped) == (5, ())
  assert restored.data_state == {"rows": 160}
  assert restored.config_text == "TRAIN_STEPS = 5\n"


@pytest.mark.parametrize("mesh_shape", [(1, 1, 1), (8, 1, 1), (1, 4, 2), (1, 1, 4)])
def test_a_state_moves_to_another_mesh(manager, mesh_shape):
  save(manager, 5)
  want = sharded(arrays(0), mesh_shape)
  restored = manager.restore(abstract(want))
  assert_same_bits(restored.state, arrays(5))
  shardings = jax.tree.map(lambda got, like: got.sharding == like.sharding, restored.state, want)
  assert all(jax.tree.leaves(shardings))


def test_training_on_in_place_does_not_change_what_is_saved(manager):
  host = {"w": np.random.default_rng(0).standard_normal((2048, 2048)).astype(np.float32)}
  state = sharded(host)
  update = jax.jit(functools.partial(jax.tree.map, lambda x: x + 1.0), donate_argnums=0)
  save(manager, 3, state)
  for _ in range(10):
    state = update(state)
  jax.block_until_ready(state)
  assert_same_bits(manager.restore(abstract(state)).state, host)


def test_there_is_nothing_to_restore_at_first(manager, tmp_path):
  assert manager.restore(abstract(sharded(arrays(0)))) is None
  assert not directory(tmp_path).exists()


def test_the_newest_are_kept(tmp_path):
  manager = CheckpointManager(directory(tmp_path), keep=2)
  for step in (1, 2, 3, 10):
    save(manager, step)
  manager.wait()
  assert list_steps(directory(tmp_path)) == [3, 10]
  assert sorted(p.name for p in directory(tmp_path).iterdir()) == ["checkpoint_10", "checkpoint_3"]
  manager.close()


def test_one_that_is_protected_is_kept_beside_them_until_another_is(tmp_path):
  manager = CheckpointManager(directory(tmp_path), keep=2)
  save(manager, 1)
  manager.protect(1)
  for step in (2, 3, 4):
    save(manager, step)
  manager.wait()
  assert list_steps(directory(tmp_path)) == [1, 3, 4]
  manager.protect(4)
  save(manager, 5)
  manager.wait()
  assert list_steps(directory(tmp_path)) == [4, 5]
  manager.close()


def test_a_truncated_checkpoint_does_not_count_as_kept(tmp_path):
  manager = CheckpointManager(directory(tmp_path), keep=2)
  for step in (1, 2):
    save(manager, step)
  manager.wait()
  (step_path(directory(tmp_path), 2) / "_METADATA").write_bytes(b"")
  save(manager, 3)
  manager.wait()
  assert list_steps(directory(tmp_path)) == [1, 2, 3]
  manager.close()


def test_keeping_none_is_refused(tmp_path):
  with pytest.raises(ConfigError):
    CheckpointManager(tmp_path, keep=0)


def test_saving_a_step_again_changes_nothing(manager, tmp_path):
  save(manager, 4)
  manager.wait()
  before = (step_path(directory(tmp_path), 4) / "manifest.json").read_bytes()
  save(manager, 4)
  manager.wait()
  assert (step_path(directory(tmp_path), 4) / "manifest.json").read_bytes() == before


def test_a_step_can_be_asked_for(manager):
  save(manager, 1)
  save(manager, 2)
  assert_same_bits(manager.restore(abstract(sharded(arrays(0))), step=1).state, arrays(1))
  with pytest.raises(CheckpointError, match=r"\[1, 2\]"):
    manager.restore(abstract(sharded(arrays(0))), step=3)


def test_a_run_that_goes_back_sets_the_later_steps_aside(tmp_path):
  first = CheckpointManager(directory(tmp_path))
  for step in (1, 2, 3):
    save(first, step)
  first.close()
  second = CheckpointManager(directory(tmp_path))
  second.restore(abstract(sharded(arrays(0))), step=1)
  assert list_steps(directory(tmp_path)) == [1, 2, 3], "reading changes nothing"
  save(second, 2)
  second.close()
  assert list_steps(directory(tmp_path)) == [1, 2]
  for step in (2, 3):
    assert verify_checkpoint(directory(tmp_path) / f"checkpoint_{step}.set_aside") == []


def test_leftovers_of_a_killed_run_are_removed_and_block_nothing(manager, tmp_path):
  for name in ("checkpoint_6.orbax-checkpoint-tmp", "checkpoint_1.deleting"):
    (directory(tmp_path) / name / "d").mkdir(parents=True)
  save(manager, 6)
  manager.wait()
  assert [p.name for p in directory(tmp_path).iterdir()] == ["checkpoint_6"]


def test_reading_leaves_the_temporaries_of_a_running_run(tmp_path, manager):
  save(manager, 1)
  manager.wait()
  temporary = directory(tmp_path) / "checkpoint_2.orbax-checkpoint-tmp"
  temporary.mkdir()
  reader = CheckpointManager(directory(tmp_path))
  assert reader.restore(abstract(sharded(arrays(0)))).step == 1
  reader.close()
  assert temporary.exists()


def test_a_directory_that_cannot_be_made_is_an_error_at_once(tmp_path):
  (tmp_path / "file").write_text("")
  manager = CheckpointManager(tmp_path / "file" / "checkpoints")
  with pytest.raises(CheckpointError, match="step 1 was not saved"):
    save(manager, 1)


def test_a_save_that_fails_is_known_before_the_next_one_and_told_once(
  manager, tmp_path, monkeypatch
):
  save(manager, 1)
  manager.check()
  manager.wait()
  manager.check()

  def full(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(manager_module, "seal", full)
  save(manager, 2)
  deadline = time.monotonic() + 60
  with pytest.raises(CheckpointError, match="step 2 was not saved"):
    while time.monotonic() < deadline:
      manager.check()
      time.sleep(0.01)
  monkeypatch.undo()
  save(manager, 2)
  manager.wait()
  assert list_steps(directory(tmp_path)) == [1, 2]


def test_another_tree_is_shown_as_a_difference_and_nothing_older_is_taken(manager):
  save(manager, 1)
  save(manager, 2)
  other = arrays(0)
  other["params"]["extra"] = other["params"].pop("experts")
  other["params"]["layers"][0] = other["params"]["layers"][0][:, :4]
  other["flags"] = other["flags"].astype(np.int32)
  with pytest.raises(CheckpointError) as refused:
    manager.restore(abstract(sharded(other)))
  message = str(refused.value)
  assert refused.value.exit_code == 3
  assert "- params/experts  float32[8,16,32]" in message
  assert "+ params/extra  float32[8,16,32]" in message
  assert "~ params/layers/0  bfloat16[16,8] -> bfloat16[16,4]" in message
  assert "~ flags  bool[5] -> int32[5]" in message
  assert "optimizer/" not in message
  assert "checkpoint_2" in message


def test_a_long_difference_is_cut(manager):
  save(manager, 1)
  other = sharded({f"w{i:03}": np.zeros(2, np.float32) for i in range(100)})
  with pytest.raises(CheckpointError, match="and 87 more") as refused:
    manager.restore(abstract(other))
  assert len(str(refused.value).splitlines()) < 26


def test_the_manifest_lists_every_array(manager, tmp_path):
  save(manager, 1)
  manager.wait()
  manifest = json.loads((step_path(directory(tmp_path), 1) / "manifest.json").read_text())
  assert manifest["state"]["params/layers/1"] == "bfloat16[16,8]"
  assert manifest["state"]["optimizer/count"] == "int32[]"
  assert len(manifest["state"]) == len(jax.tree.leaves(arrays(1)))


def test_a_directory_copied_elsewhere_restores(manager, tmp_path):
  save(manager, 1)
  manager.wait()
  shutil.copytree(directory(tmp_path), tmp_path / "copy")
  reader = CheckpointManager(tmp_path / "copy")
  assert_same_bits(reader.restore(abstract(sharded(arrays(0)))).state, arrays(1))
  reader.close()
