# SPDX-License-Identifier: Apache-2.0
"""Drills of runs with MODEL_DIR on an object store, which is a server on this machine.

storage: kill -9 at a random moment some times, then to the end, on gs:// and s3://; and two processes
that go on with what two began: parameters and optimizer state are bit for bit those of an undisturbed
run on disk. flaky: the same end through a proxy that refuses, resets, loses answers and delays; a store
that stays down ends the run with one error and code 3. two: two runs at once: one is refused, and writes
nothing.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import random
import time
from collections.abc import Iterator

import flaky_proxy
import object_stores
import runs
from outcome import resumed_from

from switch_t5.checkpoint.listing import list_steps
from switch_t5.metrics.writer import METRICS_FILE, read_metrics
from switch_t5.storage import objects
from switch_t5.storage.location import location

STEPS = 40
RATES = {
  flaky_proxy.REFUSED: 0.03,
  flaky_proxy.RESET: 0.02,
  flaky_proxy.LOST: 0.02,
  flaky_proxy.SLOW: 0.05,
}


def storage(folder: pathlib.Path, *, kills: int = 5) -> bool:
  """Kills runs on both stores and compares their ends with an undisturbed run's on disk."""
  expected = _undisturbed(folder)
  print("| store | processes | kills | resumed from | metrics of steps | arrays that differ |")
  print("|---|---|---|---|---|---|")
  good = True
  for scheme in ("gs", "s3"):
    with _served(scheme, folder) as place:
      good &= _killed(folder, place, kills, expected)
      if scheme == "gs":
        good &= _two_processes(folder, f"{place}-two")
  print()
  return good


def flaky(folder: pathlib.Path) -> bool:
  """Trains through a flaky way to a store; then on one that goes down for good."""
  expected = _undisturbed(folder)
  with _served("gs", folder) as place:
    store = os.environ["STORAGE_EMULATOR_HOST"]
    with flaky_proxy.flaky(store, seed=7, rates=RATES, delay=1.0) as proxy:
      os.environ |= object_stores.environment("gs", proxy.address)
      began = time.monotonic()
      code, output = runs.finish(runs.start(*_command(folder, place)), timeout=1800)
      os.environ |= object_stores.environment("gs", store)
      differing = _differing(folder, place, expected) if code == 0 else [output]
      faults = ", ".join(f"{proxy.happened[fault]} {fault}" for fault in RATES)
      print("| requests | of them | exit | seconds | arrays that differ |\n|---|---|---|---|---|")
      print(
        f"| {proxy.happened.total()} | {faults} | {code} | {time.monotonic() - began:.0f} | "
        f"{len(differing)} |\n"
      )
      if code:
        print(output)
      os.environ |= object_stores.environment("gs", proxy.address)
      process = runs.start(*_command(folder, f"{place}-down", TRAIN_STEPS=10**6))
      _wait_for_checkpoint(process, f"{place}-down", store)
      proxy.down, began = True, time.monotonic()
      code_down, output = runs.finish(process, timeout=1800)
      os.environ |= object_stores.environment("gs", store)
  error = output[output.rfind("switch_t5: ") :].strip()
  print(f"A store that stays down: exit {code_down} after {time.monotonic() - began:.0f} s:\n")
  print(f"```text\n{error}\n```\n")
  return code == 0 and not differing and code_down == 3 and output.count("switch_t5: ") == 1


def two(folder: pathlib.Path) -> bool:
  """Starts a run beside another on the same MODEL_DIR, from this machine and as from another."""
  print("| store | the second | exit | seconds | said |\n|---|---|---|---|---|")
  good = True
  for scheme in ("gs", "s3"):
    with _served(scheme, folder) as place:
      first = runs.start(*_command(folder, place, TRAIN_STEPS=10**6))
      _wait_for_checkpoint(first, place)
      began = time.monotonic()
      code, output = runs.finish(runs.start(*_command(folder, place)))
      said = next((line for line in output.splitlines() if "held by" in line), output)
      print(f"| {scheme} | here | {code} | {time.monotonic() - began:.0f} | {said.strip()} |")
      first.kill()
      first.communicate()
      good &= code == 2 and f"process {first.pid} on" in said
  print()
  return good


@contextlib.contextmanager
def _served(scheme: str, folder: pathlib.Path) -> Iterator[str]:
  """Serves a store; yields a place on it. The spool of the runs is in `folder`."""
  before = dict(os.environ)
  try:
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
    with object_stores.served(scheme):
      yield f"{scheme}://{object_stores.BUCKET}/run"
  finally:
    os.environ.clear()
    os.environ |= before


def _command(folder: pathlib.Path, model_dir: str, **macros: object) -> list[str]:
  given = {"MODEL_DIR": model_dir, "TRAIN_STEPS": STEPS, "EVAL_PERIOD": 10**7} | macros
  return ["train", *runs.tiny_flags(folder, **given)]


def _undisturbed(folder: pathlib.Path) -> pathlib.Path:
  model_dir = folder / "undisturbed"
  code, output = runs.finish(runs.start(*_command(folder, str(model_dir))))
  if code:
    raise RuntimeError(f"train ended with {code}:\n{output}")
  return model_dir


def _killed(folder: pathlib.Path, place: str, kills: int, expected: pathlib.Path) -> bool:
  moments, resumed = random.Random(), []
  checkpoints = location(place) / "checkpoints"
  for kill in range(kills):
    process = runs.start(*_command(folder, place))
    # What was saved stays: the steps are walked through in as many parts as there are kills.
    while max(list_steps(checkpoints), default=0) < STEPS * kill // (kills + 1):
      time.sleep(0.05)
    time.sleep(moments.uniform(0, 1))
    process.kill()
    resumed.append(_resumed(runs.finish(process)[1]))
  code, output = runs.finish(runs.start(*_command(folder, place)))
  resumed.append(_resumed(output))
  differing = _differing(folder, place, expected) if code == 0 else [output]
  steps = [int(row["step"]) for row in read_metrics(location(place) / METRICS_FILE)]
  print(
    f"| {place[:2]} | 1 | {kills} | {', '.join(resumed)} | {steps[0]} to {steps[-1]}, "
    f"{len(steps)} | {len(differing)} |"
  )
  return code == 0 and not differing and steps == list(range(1, STEPS + 1))


def _two_processes(folder: pathlib.Path, place: str) -> bool:
  """Trains half of the steps, then the rest; and all of them on disk, with two processes as well."""
  half, mesh = STEPS // 2, {"MESH_SHAPE": (2, 1, 1)}
  expected = folder / "undisturbed-two"
  runs.on_two_processes(*_command(folder, str(expected), **mesh))
  runs.on_two_processes(*_command(folder, place, TRAIN_STEPS=half, **mesh))
  runs.on_two_processes(*_command(folder, place, **mesh))
  differing = _differing(folder, place, expected)
  print(f"| {place[:2]} | 2 | 0 | the beginning, step {half} | | {len(differing)} |")
  return not differing


def _resumed(output: str) -> str:
  step = resumed_from(output)
  return f"step {step}" if step else "the beginning"


def _differing(folder: pathlib.Path, place: str, expected: pathlib.Path) -> list[str]:
  """Copies the last checkpoint of a store to disk, and compares it with another run's."""
  copy = folder / place.replace("/", "_")
  step = f"checkpoints/checkpoint_{STEPS}"
  for name in objects.sizes(location(place) / step):
    path = copy / step / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(objects.read(location(place) / step / name))
  return runs.differing(runs.arrays(copy, STEPS), runs.arrays(expected, STEPS))


def _wait_for_checkpoint(process, place: str, store: str | None = None) -> None:
  """Returns once there is one; asks at `store`, if this process's variables say another way."""
  before = dict(os.environ)
  try:
    if store is not None:
      os.environ |= object_stores.environment("gs", store)
    while not list_steps(location(place) / "checkpoints"):
      if process.poll() is not None:
        raise RuntimeError(process.stdout.read())
      time.sleep(0.2)
  finally:
    os.environ.clear()
    os.environ |= before
