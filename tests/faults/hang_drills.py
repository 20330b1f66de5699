# SPDX-License-Identifier: Apache-2.0
"""Drills of runs that hang: what is said, by whom, how soon; on the tests' tiny model."""

from __future__ import annotations

import pathlib
import signal
import subprocess
import time
from collections.abc import Sequence

import process_drills
import runs

HANG_SECONDS = 20  # six times as long to start: on a machine without other load
PEER_TIMEOUT = 120  # the watchdog is to see it first


def hangs(folder: pathlib.Path) -> bool:
  """Stops a process of two, which answers no collective; then lets it go on, or not."""
  held = True
  print(
    "| process 1 | process 0 says it hangs after, s | stacks | process 0 ends with | after, s |"
  )
  print("|---|---|---|---|---|")
  for name, exits, lasts in (("stopped for good", True, 120), ("stopped for a while", False, 5)):
    here = folder / name.replace(" ", "_")
    given = {"MESH_SHAPE": (2, 1, 1), "train.hang_seconds": HANG_SECONDS}
    given |= {"TRAIN_STEPS": 10**6, "train.hang_exit": exits}
    flags = [*runs.tiny_flags(here, **given), "--emulate_devices=1"]
    started = runs.start_processes(2, "train", *flags, f"--peer_timeout={PEER_TIMEOUT}")
    try:
      runs.wait_for_step(started[0], here / "model", 8)
      process = process_drills.child_of(started[1])
      _send("STOP", process)
      stopped = time.monotonic()
      report = _wait_for_report(here / "model" / "hangs", seconds=HANG_SECONDS + 60)
      reported = time.monotonic() - stopped
      if exits:
        code, output = runs.finish(started[0], timeout=lasts)
        took = time.monotonic() - stopped
        said = "still " in output and "ending with 76" in output
      else:
        time.sleep(lasts)
        _send("CONT", process)
        runs.wait_for_step(started[0], here / "model", runs.last_step(here / "model") + 4)
        started[0].send_signal(signal.SIGTERM)
        code, output = runs.finish(started[0])
        took = time.monotonic() - stopped
        said = "it goes on, after step" in output
    finally:
      for one in started:
        one.kill()  # their children too
    stacks = report.count("\nThread ")
    held &= said and code == (76 if exits else 75) and "in train_loop" in report
    held &= HANG_SECONDS <= reported < HANG_SECONDS + 10 and "process 0 of 2" in report
    print(f"| {name} | {reported:.1f} | {stacks} | {code} | {took:.1f} |", flush=True)
  print()
  return held


def _wait_for_report(folder: pathlib.Path, *, seconds: float) -> str:
  deadline = time.monotonic() + seconds
  found: Sequence[pathlib.Path] = ()
  while not found and time.monotonic() < deadline:
    time.sleep(0.05)
    found = list(folder.glob("*_process_0.txt"))
  return found[0].read_text() if found else ""


def _send(name: str, process: int) -> None:
  subprocess.run(["kill", f"-{name}", str(process)], check=False)
