# SPDX-License-Identifier: Apache-2.0
"""Runs that are killed or stopped go on with the same command, and end as if nothing had been."""

from __future__ import annotations

import pathlib
import random
import signal

import pytest
import runs

from switch_t5.cli.session import Session

STEPS = 20


def flags(folder: pathlib.Path) -> list[str]:
  return runs.tiny_flags(
    folder, TRAIN_STEPS=STEPS, CHECKPOINT_PERIOD=4, EVAL_PERIOD=STEPS, LOG_PERIOD=1
  )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
  """Every array at the end of a run that nothing disturbed."""
  folder = tmp_path_factory.mktemp("undisturbed")
  code, output, errors = runs.run_here("train", *flags(folder))
  assert code == 0, output + errors
  return runs.arrays(folder / "model", STEPS)


def test_killed_runs_end_with_the_same_parameters(undisturbed, tmp_path):
  moments = random.Random(0)
  for _ in range(2):
    process = runs.start("train", *flags(tmp_path))
    done = runs.last_step(tmp_path / "model")
    runs.wait_for_step(process, tmp_path / "model", min(done + moments.randint(3, 7), STEPS - 2))
    process.kill()
    code, output = runs.finish(process)
    assert code == -signal.SIGKILL, output
  code, output, errors = runs.run_here("train", *flags(tmp_path))
  assert code == 0, output + errors
  assert "Resuming from step" in output
  assert runs.differing(runs.arrays(tmp_path / "model", STEPS), undisturbed) == []


def test_an_interrupt_saves_and_the_same_command_goes_on(undisturbed, tmp_path):
  process = runs.start("train", *flags(tmp_path))
  runs.wait_for_step(process, tmp_path / "model", 2)
  process.send_signal(signal.SIGINT)
  code, output = runs.finish(process)
  assert code == 75, output
  assert "Stopped by SIGINT at step" in output
  assert "the same command goes on" in output
  assert "Traceback" not in output
  stopped = runs.last_step(tmp_path / "model")
  assert (tmp_path / "model" / "checkpoints" / f"checkpoint_{stopped}").is_dir()
  code, output, errors = runs.run_here("train", *flags(tmp_path))
  assert code == 0, output + errors
  assert f"Resuming from step {stopped}, saved in" in output
  assert runs.differing(runs.arrays(tmp_path / "model", STEPS), undisturbed) == []


def test_sigterm_while_compiling_is_answered_at_once_and_obeyed_after_it(tmp_path):
  process = runs.start("train", *flags(tmp_path))
  for line in process.stdout:
    if line.startswith("Compiling"):
      break
  process.send_signal(signal.SIGTERM)
  code, output = runs.finish(process)
  assert code == 75, output
  assert output.index("SIGTERM: saving after this step") < output.index("Compiled in")
  assert f"Stopped by SIGTERM at step 1 of {STEPS}; everything is saved" in output


def test_an_interrupt_during_evaluation_does_not_wait_for_its_end(tmp_path, monkeypatch):
  batches = Session.validation_batches
  yielded = []

  def interrupted(session, cache_directory):
    for batch in batches(session, cache_directory):
      signal.raise_signal(signal.SIGTERM)
      yielded.append(batch)
      yield batch

  monkeypatch.setattr(Session, "validation_batches", interrupted)
  macros = {"TRAIN_STEPS": 4, "EVAL_PERIOD": 2, "CHECKPOINT_PERIOD": 4}
  code, output, errors = runs.run_here("train", *runs.tiny_flags(tmp_path, **macros))
  assert code == 75, output + errors
  assert len(yielded) == 1
  assert "The evaluation at step 2 was not finished." in errors  # where the bar is
  assert "Stopped by SIGTERM at step 2 of 4; everything is saved." in errors
  monkeypatch.undo()
  code, output, errors = runs.run_here("train", *runs.tiny_flags(tmp_path, **macros))
  assert code == 0, output + errors
  assert "Resuming from step 2" in output and "Held-out at step 4" in errors
