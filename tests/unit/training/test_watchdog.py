# SPDX-License-Identifier: Apache-2.0
"""A run that hangs says where: in its input, in a save. What hangs here waits for an event."""

from __future__ import annotations

import io
import pathlib
import subprocess
import sys
import threading
import time

import jax.numpy as jnp
import pytest

from switch_t5.metrics.goodput import CHECKPOINT, COMPUTE, EVALUATION, STARTUP
from switch_t5.metrics.train_metrics import MetricSums, StepMetrics
from switch_t5.training.goodput import Ledger
from switch_t5.training.hooks import CheckpointHook
from switch_t5.training.interruption import Interruption
from switch_t5.training.loop import train_loop
from switch_t5.training.state import TrainState
from switch_t5.training.watchdog import PATIENCE, Watchdog

SECONDS = 0.4
ROOT = pathlib.Path(__file__).parents[3]


class Slow:
  """Something that does not answer until it is told to."""

  def __init__(self):
    self.answers = threading.Event()

  def storage_that_does_not_answer(self, loop=None):
    assert self.answers.wait(60)

  def batches(self):
    yield 1.0
    self.storage_that_does_not_answer()
    while True:
      yield 2.0


def step(state, batch):
  metrics = StepMetrics(
    MetricSums(**dict.fromkeys(MetricSums._fields, jnp.float32(1))), {}, jnp.bool_(False)
  )
  return state._replace(step=state.step + 1), metrics


def hang(tmp_path, slow: Slow, *, batches, hooks=(), patience=1) -> tuple[str, str]:
  """Runs three steps until they were reported, lets them go on; returns what was said and written."""
  said, ledger = io.StringIO(), Ledger()

  def answer():
    deadline = time.monotonic() + 60
    while "process" not in said.getvalue() and time.monotonic() < deadline:
      time.sleep(0.01)
    time.sleep(2 * SECONDS * patience)  # it says so once
    slow.answers.set()

  step(TrainState(jnp.int32(0), 0.0, ()), 0.0)  # what it compiles is no hang
  ledger.enter(COMPUTE)
  answering = threading.Thread(target=answer)
  answering.start()
  with Watchdog(ledger, SECONDS, tmp_path / "hangs", ends=False, stream=said):
    train_loop(
      TrainState(jnp.int32(0), jnp.float32(0), ()),
      step,
      enumerate(batches),
      hooks,
      total_steps=3,
      interruption=Interruption(),
      agree_period=1,
      on_step=lambda step: None,
      ledger=ledger,
    )
    deadline = time.monotonic() + 60
    while "goes on" not in said.getvalue() and time.monotonic() < deadline:
      ledger.progress()
      time.sleep(0.01)
  answering.join()
  (report,) = (tmp_path / "hangs").iterdir()
  assert report.name.endswith("_process_0.txt")
  return said.getvalue(), report.read_text()


def test_a_hang_of_the_input_is_reported_once_with_the_stacks_and_then_that_it_went_on(tmp_path):
  slow = Slow()
  said, written = hang(tmp_path, slow, batches=slow.batches())
  assert written in said
  assert said.count("nothing has moved") == said.count("goes on") == 1
  assert ": input, after step 1." in written
  assert "process 0 of 1" in written
  main = written.partition("Thread MainThread:")[2].partition("\nThread ")[0]
  assert "in storage_that_does_not_answer" in main and "in train_loop" in main
  assert "\nThread Thread-" in written and "\nThread watchdog" not in written


def test_a_hang_of_a_save_is_reported_after_a_longer_time(tmp_path):
  slow, began = Slow(), time.monotonic()
  hooks = [CheckpointHook(2, slow.storage_that_does_not_answer)]
  _, written = hang(tmp_path, slow, batches=iter([1.0] * 3), hooks=hooks, patience=PATIENCE)
  assert ": checkpoint, after step 2." in written
  assert "in storage_that_does_not_answer" in written
  assert time.monotonic() - began > PATIENCE * SECONDS


@pytest.mark.parametrize("kind", [STARTUP, EVALUATION, CHECKPOINT])
def test_what_takes_long_by_its_nature_is_not_reported(tmp_path, kind):
  said, ledger = io.StringIO(), Ledger()
  ledger.enter(kind)
  with Watchdog(ledger, SECONDS, tmp_path, ends=False, stream=said):
    time.sleep(3 * SECONDS)
  assert said.getvalue() == ""


def test_signs_of_life_keep_it_quiet(tmp_path):
  said, ledger = io.StringIO(), Ledger()
  ledger.enter(COMPUTE)
  with Watchdog(ledger, 1.0, tmp_path, ends=False, stream=said):
    for _ in range(15):
      time.sleep(0.1)
      ledger.progress()
  assert said.getvalue() == ""


def test_a_process_that_goes_on_hanging_can_be_ended_with_the_code_of_a_lost_one(tmp_path):
  """Also where the report cannot be written."""
  (tmp_path / "hangs").write_text("a file")
  program = f"""
import pathlib, time
from switch_t5.training.goodput import Ledger
from switch_t5.training.watchdog import Watchdog
ledger = Ledger()
ledger.enter("compute")
with Watchdog(ledger, 0.2, pathlib.Path({str(tmp_path / "hangs")!r}), ends=True):
  time.sleep(60)
"""
  ended = subprocess.run(
    [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
  )
  assert ended.returncode == 76, ended.stderr
  assert "nothing has moved for 0." in ended.stderr
  assert "the report was not written" in ended.stderr
  assert "still compute; ending with 76" in ended.stderr
