# SPDX-License-Identifier: Apache-2.0
"""A process of a run that dies, never comes or was started otherwise: who is told what, and when."""

from __future__ import annotations

import time

import runs

PEER_TIMEOUT = 10  # seconds
MARGIN = 30  # of a machine with other load


def flags(folder, **macros: object) -> list[str]:
  given = {"MESH_SHAPE": (2, 1, 1), "CHECKPOINT_PERIOD": 2} | macros
  given_flags = [f"--peer_timeout={PEER_TIMEOUT}", "--emulate_devices=1"]
  return runs.tiny_flags(folder, **given) + given_flags


def test_a_process_that_dies_ends_the_others_with_76_and_the_same_command_goes_on(tmp_path):
  processes = runs.start_processes(2, "train", *flags(tmp_path, TRAIN_STEPS=10**6))
  try:
    runs.wait_for_step(processes[0], tmp_path / "model", 4)
  finally:
    processes[1].kill()
  killed = time.monotonic()
  (code, output), _ = runs.finish_all(processes)
  assert code == 76, output
  assert time.monotonic() - killed < PEER_TIMEOUT + MARGIN
  assert "process 1: no sign of life for 10 s" in output
  assert "Check failure stack trace" not in output
  assert "Traceback" not in output
  step = runs.last_step(tmp_path / "model")
  output = runs.on_two_processes("train", *flags(tmp_path, TRAIN_STEPS=step + 2))[0]
  assert "Resuming from step" in output
  assert f"Done: step {step + 2}" in output


def test_a_process_that_was_started_otherwise_is_told_by_key_before_anything_is_written(tmp_path):
  processes = runs.start_processes(
    2, "train", *flags(tmp_path), each={1: ["--gin.ModelConfig.d_ff=64"]}
  )
  ended = runs.finish_all(processes)
  assert [code for code, _ in ended] == [2, 2], ended
  for _, output in ended:
    assert "ModelConfig.d_ff: 32 in process 0, 64 in process 1" in output
  assert not (tmp_path / "model").exists()


def test_a_coordinator_that_is_not_there_is_named_after_the_time_out(tmp_path):
  address = runs.free_address()
  given = [f"--coordinator_address={address}", "--process_count=2", "--process_index=1"]
  code, output = runs.finish(
    runs.start("train", *flags(tmp_path), *given, "--peer_timeout=1"), timeout=120
  )
  assert code == 76, output
  assert f"process 0 at {address}, waited 5 s" in output
