# SPDX-License-Identifier: Apache-2.0
"""A study whose last run was stopped: it goes on where it was, and finds a lost evaluation again."""

from __future__ import annotations

import json

import pytest
import runs

from switch_t5.cli import study_runs
from switch_t5.studies.distill import ARMS

NAME = "eval/embedded_span_corruption/cross_entropy"
COMMAND = ("study", "distill", "--size=test")


@pytest.fixture
def stopped(tmp_path, monkeypatch):
  """A study of which all is done but one run, which was stopped at step 10 of 20."""
  pytest.importorskip("matplotlib")
  pace = {arm.name: study_runs.Pace(0.1, 1.0) for arm in ARMS}
  monkeypatch.setattr(study_runs.StudyRuns, "_measure_paces", lambda self: pace)
  last = tmp_path / "dense_seed1"
  code, _, errors = runs.run_here(
    "train",
    "--gin_file=studies/distill_test.gin",
    f"--gin.MODEL_DIR={str(last)!r}",
    "--gin.SEED=1",
    "--gin.TRAIN_STEPS=10",
  )
  assert code == 0, errors
  data = json.loads((last / "run.json").read_text())["starts"][-1]["data"]
  for arm in ARMS:
    for seed in range(2):
      folder = tmp_path / f"{arm.name}_seed{seed}"
      if folder != last:
        (folder / "checkpoints" / "checkpoint_20").mkdir(parents=True)
        row = {"step": 20, NAME: 8.0 + 0.01 * seed}
        (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
        (folder / "run.json").write_text(json.dumps({"starts": [{"data": data}]}))
  return tmp_path


def evaluations(folder, step):
  rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
  return [row for row in rows if row["step"] == step and NAME in row]


def test_a_stopped_run_goes_on_and_an_evaluation_that_was_lost_is_made_again(stopped):
  last = stopped / "dense_seed1"
  code, output, errors = runs.run_here(*COMMAND, f"--to={stopped}")
  assert code == 0, errors
  assert "12 runs, 1 to do" in output
  assert "Resuming from step 10" in (stopped / "logs" / "dense_seed1.log").read_text()
  (found,) = evaluations(last, 20)
  table = (stopped / "distill.json").read_text()
  assert json.loads(table)["qualities"]["dense"][1] == -found[NAME]

  # Killed between the last checkpoint and the evaluation of its step.
  kept = [row for row in (last / "metrics.jsonl").read_text().splitlines() if NAME not in row]
  (last / "metrics.jsonl").write_text("\n".join(kept) + "\n")
  code, output, errors = runs.run_here(*COMMAND, f"--to={stopped}")
  assert code == 0, errors
  assert "12 runs, 1 to do" in output
  again = json.loads((stopped / "distill.json").read_text())["qualities"]["dense"][1]
  assert again == pytest.approx(-found[NAME], rel=1e-6)
