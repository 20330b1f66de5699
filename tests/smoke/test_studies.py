# SPDX-License-Identifier: Apache-2.0
"""A study and a sweep to their ends; the other studies from runs that are done, whose table is what is new."""

from __future__ import annotations

import json
import shutil

import pytest
import runs

from switch_t5.cli import study, study_probe, study_runs
from switch_t5.studies.init import SMALL

SCALE = "ModelConfig.init_scale"
FILES = (".md", ".html", ".json", ".png", "_curves.png")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def untimed():
  """Spares the runs that are for timing alone."""
  pytest.importorskip("matplotlib")

  def paces(self):
    return {arm.name: study_runs.Pace(0.1, 1.0) for arm in self.family.arms}

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(study_runs.StudyRuns, "_measure_paces", paces)
    yield


@pytest.fixture(scope="module")
def init(tmp_path_factory):
  """The study of first parameters, whose arms share one program, and what it printed."""
  folder = tmp_path_factory.mktemp("init")
  code, output, errors = runs.run_here("study", "init", "--size=test", f"--to={folder}")
  assert code == 0, errors
  return folder, output


def test_a_study_trains_its_runs_and_finds_them_done_the_next_time(init):
  folder, output = init
  assert "4 runs, 4 to do" in output
  assert all(f"| {arm.title} |" in output for arm in study.FAMILIES["init"].arms)
  before = runs.snapshot(folder)
  code, again, errors = runs.run_here("study", "init", "--size=test", f"--to={folder}")
  assert code == 0, errors
  assert "4 runs, 0 to do" in again and runs.snapshot(folder) == before


@pytest.mark.parametrize(
  "name", [name for name in study.FAMILIES if name not in ("init", "distill")]
)
def test_a_study_of_runs_that_are_done_writes_table_page_and_pictures(
  init, name, tmp_path, monkeypatch
):
  """Of every arm the same run, but for precision: that measures something of the run itself."""
  sent = {"all_to_all_bytes": 2.0, "all_to_all_bytes_needed": 1.0}
  monkeypatch.setattr(study_probe, "all_to_all_bytes", lambda study, arm: dict(sent))
  family = study.FAMILIES[name]
  for arm in family.arms:
    for seed in range(2):
      shutil.copytree(init[0] / f"{SMALL}_seed{seed}", tmp_path / f"{arm.name}_seed{seed}")
  code, output, errors = runs.run_here("study", name, "--size=test", f"--to={tmp_path}")
  assert code == 0, errors
  assert f"{2 * len(family.arms)} runs, 0 to do" in output
  assert all(f"| {arm.title} |" in output for arm in family.arms)
  assert "nan" not in output
  for ending in FILES:
    assert (tmp_path / f"{name}{ending}").stat().st_size > 500
  found = json.loads((tmp_path / f"{name}.json").read_text())["arms"]
  assert all(len(of_arm["quality"]["values"]) == 2 for of_arm in found.values())
  if name == "precision":
    assert found["float32"]["facts"]["routed_tokens"] > 0


def test_a_sweep_halves_its_trials_goes_on_and_names_one_that_diverged(init, tmp_path):
  command = (
    *("study", "sweep", "--gin_file=studies/switch_test.gin", f"--to={tmp_path}"),
    f"--vary.{SCALE}=[0.1, 1e38, 0.5, 0.2]",
  )
  code, output, errors = runs.run_here(*command)
  assert code == 0, errors
  assert "Rung 1 of 2: 4 trials up to step 3" in output
  assert "Rung 2 of 2: 2 trials up to step 6" in output
  found = json.loads((tmp_path / "sweep.json").read_text())["trials"]
  assert [trial["steps"] for trial in found[:3]] == [6, 6, 3]
  assert found[3]["settings"] == {SCALE: "1e+38"} and found[3]["diverged"]
  first = tmp_path / f"{found[0]['trial']}_seed0"
  assert len(json.loads((first / "run.json").read_text())["starts"]) == 2  # it went on
  code, output, errors = runs.run_here(*command)
  assert code == 0, errors
  assert output.count(", 0 to do") == 2
  code, _, errors = runs.run_here(*command, "--gin.BATCH_SIZE=4")
  assert code == 2 and "other settings" in errors
