# SPDX-License-Identifier: Apache-2.0
"""Damage to any file of the newest checkpoint is named, and the step before is restored."""

from __future__ import annotations

import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from switch_t5.checkpoint.listing import list_steps, verify_checkpoint
from switch_t5.checkpoint.manager import CheckpointManager
from switch_t5.errors import CheckpointError
from switch_t5.sharding.mesh import MeshShape, make_mesh


def make_state(step: int):
  """Returns a state of 100 kB that is another at every step."""
  rng = np.random.default_rng(step)
  mesh = make_mesh(MeshShape(2, 2, 2))
  sharding = NamedSharding(mesh, PartitionSpec("expert", "model"))
  return {
    "kernel": jax.device_put(rng.standard_normal((128, 128)).astype(np.float32), sharding),
    "embedding": jax.device_put(rng.standard_normal((64, 256)).astype(jnp.bfloat16), sharding),
    "step": jax.device_put(np.int32(step), NamedSharding(mesh, PartitionSpec())),
  }


def save(directory: pathlib.Path, step: int, manager: CheckpointManager | None = None):
  writer = manager or CheckpointManager(directory)
  writer.save(step, make_state(step), data_state={"rows": step}, config_text=f"# step {step}\n")
  writer.wait()
  if manager is None:
    writer.close()


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
  """A directory with good checkpoints of steps 10 and 20."""
  directory = tmp_path_factory.mktemp("pristine")
  manager = CheckpointManager(directory)
  for step in (10, 20):
    save(directory, step, manager)
  manager.close()
  return directory


@pytest.fixture
def directory(pristine, tmp_path):
  return shutil.copytree(pristine, tmp_path / "checkpoints")


def files_of(path: pathlib.Path) -> list[str]:
  return sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())


def flip(path: pathlib.Path, position: int, bit: int):
  data = bytearray(path.read_bytes())
  data[position] ^= 1 << bit
  path.write_bytes(data)


def assert_falls_back(directory: pathlib.Path, named: str):
  """Asserts that step 20 is found damaged, `named` is named, and step 10 restored bit for bit."""
  problems = verify_checkpoint(directory / "checkpoint_20")
  assert [problem.file for problem in problems] == [named]
  manager = CheckpointManager(directory)
  restored = manager.restore(make_state(0))
  manager.close()
  assert restored.step == 10
  assert (restored.data_state, restored.config_text) == ({"rows": 10}, "# step 10\n")
  ((step, reason),) = restored.skipped
  assert step == 20
  assert reason.startswith(f"{named}: ")
  want = make_state(10)
  for name, array in restored.state.items():
    assert np.asarray(array).tobytes() == np.asarray(want[name]).tobytes()


def each_file(pristine: pathlib.Path):
  names = files_of(pristine / "checkpoint_20")
  for expected in ("_METADATA", "_sharding", "config.gin", "data_state.json", "manifest.json"):
    assert expected in names
  assert any(name.startswith("ocdbt.process_0/d/") for name in names)
  return names


def test_one_flipped_bit_in_any_file_is_named(pristine, tmp_path):
  rng = np.random.default_rng(0)
  for i, name in enumerate(each_file(pristine)):
    directory = shutil.copytree(pristine, tmp_path / str(i))
    file = directory / "checkpoint_20" / name
    flip(file, int(rng.integers(file.stat().st_size)), int(rng.integers(8)))
    assert_falls_back(directory, name)


def test_a_thousand_flipped_bits_are_all_found(directory):
  rng = np.random.default_rng(1)
  path = directory / "checkpoint_20"
  names = files_of(path)
  for _ in range(1000):
    name = names[rng.integers(len(names))]
    position, bit = int(rng.integers((path / name).stat().st_size)), int(rng.integers(8))
    flip(path / name, position, bit)
    assert [problem.file for problem in verify_checkpoint(path)] == [name]
    flip(path / name, position, bit)
  assert verify_checkpoint(path) == []


def test_a_missing_file_is_named(pristine, tmp_path):
  for i, name in enumerate(each_file(pristine)):
    directory = shutil.copytree(pristine, tmp_path / str(i))
    (directory / "checkpoint_20" / name).unlink()
    assert_falls_back(directory, name)


def test_a_truncated_file_is_named(pristine, tmp_path):
  for i, name in enumerate(each_file(pristine)):
    directory = shutil.copytree(pristine, tmp_path / str(i))
    file = directory / "checkpoint_20" / name
    file.write_bytes(file.read_bytes()[:-1])
    assert_falls_back(directory, name)


def test_an_extra_file_is_named(directory):
  (directory / "checkpoint_20" / "d" / "stray").write_bytes(b"x")
  assert_falls_back(directory, "d/stray")


def test_no_good_step_is_an_error_that_names_each(directory):
  flip(directory / "checkpoint_10" / "_METADATA", 0, 0)
  (directory / "checkpoint_20" / "manifest.json").unlink()
  manager = CheckpointManager(directory)
  with pytest.raises(CheckpointError) as error:
    manager.restore(make_state(0))
  manager.close()
  assert error.value.exit_code == 3
  assert "step 20: manifest.json: is missing" in str(error.value)
  assert "step 10: _METADATA: was changed" in str(error.value)


def test_a_damaged_step_that_was_asked_for_is_not_replaced_by_another(directory):
  flip(directory / "checkpoint_20" / "_sharding", 3, 1)
  manager = CheckpointManager(directory)
  with pytest.raises(CheckpointError, match="_sharding"):
    manager.restore(make_state(0), step=20)
  manager.close()


@pytest.mark.parametrize("next_step", [15, 20])
def test_a_run_that_fell_back_is_not_shadowed_by_the_damaged_step(directory, next_step):
  flip(directory / "checkpoint_20" / "config.gin", 0, 0)
  manager = CheckpointManager(directory)
  assert manager.restore(make_state(0)).step == 10
  save(directory, next_step, manager)
  manager.close()
  assert list_steps(directory) == [10, next_step]
  assert (directory / "checkpoint_20.set_aside" / "config.gin").exists()
  again = CheckpointManager(directory)
  restored = again.restore(make_state(0))
  again.close()
  assert (restored.step, restored.skipped) == (next_step, ())
  assert int(restored.state["step"]) == next_step
