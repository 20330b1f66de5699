# SPDX-License-Identifier: Apache-2.0
"""A run with MODEL_DIR on an object store: killed, and gone on with."""

from __future__ import annotations

import time

import runs

from switch_t5.checkpoint.listing import list_steps
from switch_t5.metrics.writer import METRICS_FILE, read_metrics
from switch_t5.storage.location import location

STEPS = 20


def test_a_run_that_was_killed_goes_on_from_the_store(gs_prefix, tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  given = {"MODEL_DIR": gs_prefix, "TRAIN_STEPS": STEPS, "EVAL_PERIOD": 10**6}
  command = ["train", *runs.tiny_flags(tmp_path, **given)]
  killed = runs.start(*command)
  try:
    while not list_steps(location(gs_prefix) / "checkpoints"):
      assert killed.poll() is None, killed.stdout.read()
      time.sleep(0.1)
  finally:
    killed.kill()
    killed.communicate()

  code, output, errors = runs.run_here(*command)
  assert code == 0, errors
  assert "Resuming from step" in output and "this run has taken it over" in errors
  code, output, _ = runs.run_here("checkpoint", "verify", gs_prefix)
  assert code == 0 and output.count("good") == 3
  rows = read_metrics(location(gs_prefix) / METRICS_FILE)
  assert [int(row["step"]) for row in rows] == list(range(1, STEPS + 1))


def test_no_checkpoints_on_a_store_are_an_error(gs_prefix):
  code, _, errors = runs.run_here("checkpoint", "verify", gs_prefix)
  assert code == 3 and "There are no checkpoints" in errors
