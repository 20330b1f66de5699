# SPDX-License-Identifier: Apache-2.0
"""Drills of one process that is killed or told to stop, on the tests' tiny model.

kills: kill -9 at random moments, every other time while a checkpoint is being written; the same command
goes on each time, and ends as a run that nothing disturbed. signals: SIGTERM while the run takes steps,
evaluates, compiles, saves, and waits for data.
"""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable

import runs
from outcome import Outcome, compared, resumed_from, rows_astray

PERIOD = 3  # steps between checkpoints
STEPS_OF_A_KILL = 12  # the run is walked through in as many parts as there are kills
_COMMITTED = re.compile(r"checkpoint_\d+")
# A module for --import: every batch takes its time.
_SLOW_DATA = """
import time
from switch_t5.cli.run_data import IndexedData
make = IndexedData.train_reader
class Slow:
  def __init__(self, reader): self.reader = reader
  def __getattr__(self, name): return getattr(self.reader, name)
  def __iter__(self): return self
  def __next__(self): time.sleep(1.0); return next(self.reader)
IndexedData.train_reader = lambda data, rows: Slow(make(data, rows))
"""


def flags(folder: pathlib.Path, **macros: object) -> list[str]:
  """Returns the flags of a run that saves often; `macros` win."""
  given = {"CHECKPOINT_PERIOD": PERIOD, "EVAL_PERIOD": 10**6, "LOG_PERIOD": 1} | macros
  return runs.tiny_flags(folder, **given)


def train_here(folder: pathlib.Path, **macros: object) -> str:
  """Trains to the end in this process; returns what was printed."""
  code, output, errors = runs.run_here("train", *flags(folder, **macros))
  if code:
    raise RuntimeError(f"train ended with {code}:\n{output}{errors}")
  return output + errors


def kills(folder: pathlib.Path, quick: bool) -> list[Outcome]:
  """Kills runs, two beside each other, and compares their ends with undisturbed ones'."""
  series, count = 2, 5 if quick else 100
  steps = STEPS_OF_A_KILL * count
  undisturbed = folder / "undisturbed" / "model"
  train_here(undisturbed.parent, TRAIN_STEPS=steps)
  with concurrent.futures.ThreadPoolExecutor(series) as executor:
    lost = list(
      executor.map(
        lambda n: _killed(folder / str(n), count, steps, random.Random(n)), range(series)
      )
    )
  outcomes = []
  for which, name in enumerate(("kill -9 at a random moment", "kill -9 in the middle of a save")):
    found = [try_ for of_run in lost for try_ in of_run[which::2]]
    ends = [compared(folder / str(n) / "model", undisturbed, steps) for n in range(series)]
    astray = sum(rows_astray(folder / str(n) / "model", steps) for n in range(series))
    held = all(same for _, same in ends) and not astray and all(good for _, good in found)
    worst = max(steps_lost for steps_lost, _ in found)
    # A save that has begun is lost with the steps that were taken beside it.
    held &= worst <= 2 * PERIOD
    outcomes.append(
      Outcome(
        f"{name}, a save every {PERIOD} steps",
        len(found),
        sum(good for _, good in found),
        f"at most {worst}, {worst / PERIOD:.0f} intervals",
        str(astray),
        ends[0][0],
        held,
      )
    )
  return outcomes


def _killed(
  folder: pathlib.Path, count: int, steps: int, moments: random.Random
) -> list[tuple[int, bool]]:
  """Kills a run `count` times, then lets it end; returns of each kill the steps lost, and whether
  the next start went on without a checkpoint that was damaged or in the way.
  """
  model_dir, tries = folder / "model", []
  logged = 0
  for kill in range(count + 1):
    process = runs.start("train", *flags(folder, TRAIN_STEPS=steps))
    if kill < count:
      target = max(logged + 1, steps * kill // count)
      runs.wait_for_step(process, model_dir, min(target, steps - 2))
      if kill % 2:
        _wait_for_save(model_dir)
      time.sleep(moments.uniform(0, 0.02 if kill % 2 else 0.5))
      process.kill()
    code, output = runs.finish(process)
    if kill:
      good = "damaged" not in output and "Traceback" not in output
      tries.append((logged - resumed_from(output), good and code in (0, -signal.SIGKILL)))
    logged = runs.last_step(model_dir)
  return tries


def _wait_for_save(model_dir: pathlib.Path) -> None:
  """Returns once a checkpoint is being written, or after a second."""
  deadline = time.monotonic() + 1
  while time.monotonic() < deadline:
    names = os.listdir(model_dir / "checkpoints")
    if not all(_COMMITTED.fullmatch(name) for name in names):
      return
    time.sleep(0.0005)


def signals(folder: pathlib.Path, quick: bool) -> list[Outcome]:
  """Sends SIGTERM at each place of a run, again and again, and compares the end."""
  (folder / "modules").mkdir(parents=True)
  (folder / "modules" / "slow_data.py").write_text(_SLOW_DATA)
  places: dict[str, tuple[dict[str, object], list[str], Callable[..., str]]] = {
    "taking steps": ({}, [], _after_a_step),
    "evaluating": ({"EVAL_PERIOD": 1}, [], _after_a_step),
    "compiling": ({}, [], _once_it_compiles),
    "saving": ({"CHECKPOINT_PERIOD": 1}, [], _once_it_saves),
    "waiting for data": ({}, ["--import=slow_data"], _after_a_step),
  }
  tries = 1 if quick else 10
  found: dict[str, list[tuple[bool, int, float]]] = {name: [] for name in places}
  moments, model_dir = random.Random(0), folder / "model"
  stopped_at = 0
  for name, (macros, more, wait) in [*places.items()] * tries:
    given = flags(folder, TRAIN_STEPS=10**6, **macros)
    process = _start_beside(folder / "modules", *given, *more)
    read = wait(process, model_dir, stopped_at)
    time.sleep(moments.uniform(0, 0.05))
    process.send_signal(signal.SIGTERM)
    sent = time.monotonic()
    code, output = runs.finish(process)
    seconds = time.monotonic() - sent
    lost = stopped_at - resumed_from(read + output)
    at = re.search(r"Stopped by SIGTERM at step (\d+)", output)
    found[name].append((code == 75 and at is not None, lost, seconds))
    stopped_at = int(at[1]) if at else runs.last_step(model_dir)
  steps = stopped_at + 2
  code, output = runs.finish(runs.start("train", *flags(folder, TRAIN_STEPS=steps)))
  train_here(folder / "undisturbed", TRAIN_STEPS=steps)
  final, same = compared(model_dir, folder / "undisturbed" / "model", steps)
  astray = rows_astray(model_dir, steps)
  good = code == 0 and same and not astray
  return [
    Outcome(
      f"SIGTERM while {name}",
      len(of_place),
      sum(said for said, _, _ in of_place),
      f"at most {max(lost for _, lost, _ in of_place)}",
      str(astray),
      final,
      good and all(said and not lost for said, lost, _ in of_place),
      f"{max(seconds for _, _, seconds in of_place):.1f}",
    )
    for name, of_place in found.items()
  ]


def _start_beside(modules: pathlib.Path, *argv: str) -> subprocess.Popen[str]:
  """Starts a run that finds these modules."""
  before = os.environ.get("PYTHONPATH", "")
  os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(modules), before)))
  try:
    return runs.start("train", *argv)
  finally:
    os.environ["PYTHONPATH"] = before


# Each returns what it has read of the output.


def _after_a_step(process: subprocess.Popen[str], model_dir: pathlib.Path, done: int) -> str:
  runs.wait_for_step(process, model_dir, done + 1)
  return ""


def _once_it_saves(process: subprocess.Popen[str], model_dir: pathlib.Path, done: int) -> str:
  runs.wait_for_step(process, model_dir, done + 1)
  _wait_for_save(model_dir)
  return ""


def _once_it_compiles(process: subprocess.Popen[str], model_dir: pathlib.Path, done: int) -> str:
  read = ""
  for line in process.stdout:
    read += line
    if line.startswith("Compiling"):
      break
  return read
