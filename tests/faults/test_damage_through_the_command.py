# SPDX-License-Identifier: Apache-2.0
"""A damaged checkpoint, as a user meets it: named, and the step before taken. All files: the drill."""

from __future__ import annotations

import json
import pathlib
import shutil

import pytest
import runs
from damage import DAMAGES


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
  """Holds a run with checkpoints of steps 2 and 4."""
  folder = tmp_path_factory.mktemp("pristine")
  code, output, errors = runs.run_here("train", *flags(folder, folder / "data"))
  assert code == 0, output + errors
  return folder


def flags(folder: pathlib.Path, data: pathlib.Path) -> list[str]:
  return runs.tiny_flags(folder, TASK_DATA_DIR=str(data), TRAIN_STEPS=4, CHECKPOINT_PERIOD=2)


def file_of(checkpoint: pathlib.Path, name: str) -> pathlib.Path:
  """Returns the file of a checkpoint; for `arrays` the largest of those that hold arrays."""
  if name != "arrays":
    return checkpoint / name
  return max(checkpoint.glob("ocdbt.process_0/d/*"), key=lambda file: file.stat().st_size)


@pytest.mark.parametrize("name", ["arrays", "data_state.json", "manifest.json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_and_training_falls_back(pristine, tmp_path, damage, name):
  shutil.copytree(pristine / "model", tmp_path / "model")
  checkpoint = tmp_path / "model" / "checkpoints" / "checkpoint_4"
  file = file_of(checkpoint, name)
  DAMAGES[damage](file)
  named = str(file.relative_to(checkpoint))

  code, output, _ = runs.run_here("checkpoint", "verify", str(tmp_path / "model"))
  assert code == 3
  assert "checkpoint_4" in output and f"    {named}: " in output
  code, output, _ = runs.run_here("checkpoint", "verify", str(tmp_path / "model"), "--json")
  assert code == 3
  good, bad = json.loads(output)
  assert (good["step"], good["problems"]) == (2, [])
  assert bad["step"] == 4 and bad["problems"][0].startswith(named)

  code, output, errors = runs.run_here(
    "train", *flags(tmp_path, pristine / "data"), "--gin.TRAIN_STEPS=2"
  )
  assert code == 0, output + errors
  assert f"Checkpoint 4 is damaged and was passed over: {named}: " in output
  assert "Resuming from step 2" in output


def test_a_run_that_fell_back_ends_as_it_would_have(pristine, tmp_path):
  shutil.copytree(pristine / "model", tmp_path / "model")
  DAMAGES["truncated"](file_of(tmp_path / "model" / "checkpoints" / "checkpoint_4", "arrays"))
  code, output, errors = runs.run_here("train", *flags(tmp_path, pristine / "data"))
  assert code == 0, output + errors
  again, before = (runs.arrays(folder / "model", 4) for folder in (tmp_path, pristine))
  assert runs.differing(again, before) == []


def test_when_no_checkpoint_is_good_nothing_is_trained(pristine, tmp_path):
  shutil.copytree(pristine / "model", tmp_path / "model")
  for step in (2, 4):
    DAMAGES["missing"](tmp_path / "model" / "checkpoints" / f"checkpoint_{step}" / "manifest.json")
  before = runs.snapshot(tmp_path)
  code, _, errors = runs.run_here("train", *flags(tmp_path, pristine / "data"))
  assert code == 3
  assert "step 4: manifest.json: " in errors and "step 2: manifest.json: " in errors
  assert runs.snapshot(tmp_path) == before
