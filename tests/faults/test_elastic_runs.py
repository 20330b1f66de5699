# SPDX-License-Identifier: Apache-2.0
"""Devices go and come back: the same global batch in more microbatches, with the same losses."""

from __future__ import annotations

import json

import pytest
import runs

from switch_t5.metrics.goodput import whole_life
from switch_t5.metrics.writer import METRICS_FILE, read_lines

TOLERANCE = 1e-5  # relative


@pytest.mark.slow
def test_a_run_of_eight_devices_goes_on_on_four_and_back_on_eight(tmp_path):
  """With dropout, expert dropout and jitter; the experts are spread anew each time."""

  def train(name, steps, mesh, microbatches=1):
    given = {"TASK_DATA_DIR": str(tmp_path / "data"), "CHECKPOINT_PERIOD": 2, "EVAL_PERIOD": 10**6}
    given |= {"TRAIN_STEPS": steps, "MESH_SHAPE": mesh, "NUM_MICROBATCHES": microbatches}
    given |= {"EXPERT_DROPOUT_RATE": 0.1, "train.eval_steps": 1}
    code, output, errors = runs.run_here("train", *runs.tiny_flags(tmp_path / name, **given))
    assert code == 0, output + errors
    return output

  train("undisturbed", 6, (4, 2, 1))
  train("elastic", 2, (4, 2, 1))
  assert "Resuming from step 2" in train("elastic", 4, (2, 2, 1), microbatches=2)
  assert "Resuming from step 4" in train("elastic", 6, (1, 8, 1))
  want = runs.losses(tmp_path / "undisturbed" / "model")
  got = runs.losses(tmp_path / "elastic" / "model")
  assert got == pytest.approx(want, rel=TOLERANCE)
  model_dir = tmp_path / "elastic" / "model"
  starts = json.loads((model_dir / "run.json").read_text())["starts"]
  life = whole_life(read_lines(model_dir / METRICS_FILE), starts)
  assert (life.starts, life.repeated_steps) == (3, 0)
