# SPDX-License-Identifier: Apache-2.0
"""A run goes on with other devices: another mesh, two processes instead of one, and back."""

from __future__ import annotations

import json
import pathlib
import shutil

import numpy as np
import pytest
import runs

from switch_t5.data.indexed import IndexedReader
from switch_t5.metrics.writer import METRICS_FILE
from switch_t5.sharding.mesh import MeshShape, make_mesh
from switch_t5.sharding.placement import batch_sharding

MESH = (2, 2, 2)
TOLERANCE = 1e-4  # relative; the order of sums differs between meshes


def flags(folder: pathlib.Path, data: pathlib.Path, **macros: object) -> list[str]:
  settings = {"TASK_DATA_DIR": str(data), "TRAIN_STEPS": 4, "CHECKPOINT_PERIOD": 2}
  return runs.tiny_flags(folder, **(settings | macros))


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
  """Holds four steps on one device in model/ and the cache in data/."""
  folder = tmp_path_factory.mktemp("one_device")
  code, output, errors = runs.run_here("train", *flags(folder, folder / "data"))
  assert code == 0, output + errors
  return folder


@pytest.fixture(scope="module")
def two_processes(one_device, tmp_path_factory):
  """Holds the same four steps, run by two processes of four devices each; and what they said."""
  folder = tmp_path_factory.mktemp("two_processes")
  given = [*flags(folder, one_device / "data", MESH_SHAPE=MESH), "--emulate_devices=4"]
  return folder, runs.on_two_processes("train", *given)


def test_a_run_goes_on_on_another_mesh_with_the_same_losses(one_device, tmp_path):
  shutil.copytree(one_device / "model", tmp_path / "model")
  shutil.rmtree(tmp_path / "model" / "checkpoints" / "checkpoint_4")
  (tmp_path / "model" / METRICS_FILE).unlink()
  code, output, errors = runs.run_here(
    "train", *flags(tmp_path, one_device / "data", MESH_SHAPE=MESH)
  )
  assert code == 0, output + errors
  assert "Resuming from step 2" in output
  want = runs.losses(one_device / "model")
  assert runs.losses(tmp_path / "model") == pytest.approx({3: want[3], 4: want[4]}, rel=TOLERANCE)


def test_two_processes_have_the_losses_of_one(one_device, two_processes):
  folder, _ = two_processes
  want = runs.losses(one_device / "model")
  assert runs.losses(folder / "model") == pytest.approx(want, rel=TOLERANCE)


def test_two_processes_write_and_speak_once(two_processes):
  folder, outputs = two_processes
  lines = (folder / "model" / METRICS_FILE).read_text().splitlines()
  steps = [json.loads(line)["step"] for line in lines if "train/loss" in line]
  assert steps == [1, 2, 3, 4]
  assert json.loads((folder / "model" / "run.json").read_text())["starts"][0]["processes"] == 2
  assert len(list((folder / "model" / "events").iterdir())) == 1
  assert [output.count("Done: step 4") for output in outputs] == [1, 0]


def test_the_checkpoint_of_two_processes_is_one_that_one_process_goes_on_from(
  one_device, two_processes, tmp_path
):
  shutil.copytree(two_processes[0] / "model", tmp_path / "model")
  code, _, _ = runs.run_here("checkpoint", "verify", str(tmp_path / "model"))
  assert code == 0
  code, output, errors = runs.run_here(
    "train", *flags(tmp_path, one_device / "data", TRAIN_STEPS=5)
  )
  assert code == 0, output + errors
  assert "Resuming from step 4" in output
  got, want = (runs.arrays(folder / "model", 4) for folder in (tmp_path, one_device))
  assert got.keys() == want.keys()
  for name, array in got.items():
    if name.startswith("params/"):
      np.testing.assert_allclose(array, want[name], rtol=1e-2, atol=1e-3, err_msg=name)


def test_every_row_is_read_by_exactly_one_process(one_device):
  """Two processes' readers, by their rows of each batch, against one that reads all."""
  (cache,) = (one_device / "data").iterdir()
  given = {"feature_lengths": {"inputs": 32, "targets": 16}, "batch_size": 8, "seed": 0}
  whole = IndexedReader(cache, "train", **given)
  places = batch_sharding(make_mesh(MeshShape(*MESH))).devices_indices_map((1, 8, 1))
  devices = [list(places)[:4], list(places)[4:]]  # of either process
  rows = [np.unique(np.concatenate([np.arange(8)[places[d][1]] for d in ds])) for ds in devices]
  parts = [IndexedReader(cache, "train", **given, rows=mine) for mine in rows]
  for _ in range(10):  # two epochs
    want, shares = next(whole), [next(part) for part in parts]
    for name, features in want.items():
      np.testing.assert_array_equal(np.concatenate([share[name] for share in shares]), features)
