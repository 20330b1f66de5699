# SPDX-License-Identifier: Apache-2.0
"""The drill: faults are inflicted on real runs, and what held is counted.

  python -m tests.faults.drill [--quick] [NAME ...]

Without names all drills run; with --quick few tries of those that need one process and little time. Each
prints what it sees, and all end with one table (`outcome`). Exits with 1 if anything did not hold.
"""

from __future__ import annotations

import os
import pathlib
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before anything imports JAX
sys.path[:0] = [str(pathlib.Path(__file__).parent), str(pathlib.Path(__file__).parent.parent)]

import change_drills  # noqa: E402
import demo_drills  # noqa: E402
import file_drills  # noqa: E402
import hang_drills  # noqa: E402
import kill_drills  # noqa: E402
import process_drills  # noqa: E402
import storage_drills  # noqa: E402
from absl import logging  # noqa: E402
from outcome import Outcome, table  # noqa: E402

# (folder, quick) -> outcomes.
Drill = Callable[[pathlib.Path, bool], list[Outcome]]


def _whole(fault: str, tries: int, holds: Callable[[pathlib.Path], bool]) -> Drill:
  """Makes a drill of one that prints a table of its own and says whether all of it held."""

  def drill(folder: pathlib.Path, quick: bool) -> list[Outcome]:
    held = holds(folder)
    return [Outcome(fault, tries, tries if held else 0, held=held)]

  return drill


DRILLS: dict[str, Drill] = {
  "kills": kill_drills.kills,
  "signals": kill_drills.signals,
  "files": file_drills.files,
  "disk": file_drills.disk,
  "folder": file_drills.folder,
  "bad_steps": change_drills.bad_steps,
  "changes": change_drills.changes,
  "data": change_drills.data,
  "meshes": _whole("the demo on six meshes", 6, demo_drills.meshes),
  "plans": _whole("the demo planned for TPUs", 2, demo_drills.plans),
  "processes": _whole("another number of processes", 3, process_drills.processes),
  "lost": _whole("one of four processes killed, stopped, told to stop", 4, process_drills.lost),
  "unlike": _whole("processes that differ", 6, process_drills.unlike),
  "hangs": _whole("a process that stands still", 2, hang_drills.hangs),
  "storage": _whole("kill -9 of runs on gs:// and s3://", 10, storage_drills.storage),
  "flaky": _whole("a store that fails now and then, and for good", 2, storage_drills.flaky),
  "two": _whole("a second run on a bucket", 2, storage_drills.two),
}
QUICK = ("kills", "signals", "files", "disk", "folder", "data")


def run(names: Sequence[str], folder: pathlib.Path, *, quick: bool) -> list[Outcome]:
  """Runs drills in folders of their own; one that ends with an error did not hold."""
  outcomes: list[Outcome] = []
  for name in names:
    started = time.monotonic()
    (folder / name).mkdir(parents=True)
    try:
      found = DRILLS[name](folder / name, quick)
    except Exception as error:
      traceback.print_exc()
      found = [Outcome(f"{name}: {type(error).__name__}", 1, 0, held=False)]
    print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    outcomes += found
  return outcomes


def main(arguments: Sequence[str]) -> int:
  """Runs what the command line says; returns the exit code."""
  quick = "--quick" in arguments
  names = [name for name in arguments if name != "--quick"] or (QUICK if quick else list(DRILLS))
  if unknown := [name for name in names if name not in DRILLS]:
    print(f"There is no drill {unknown[0]}. There are: {', '.join(DRILLS)}.", file=sys.stderr)
    return 2
  logging.set_verbosity(logging.FATAL)  # what checkpoints say of damage, a thousand times
  with tempfile.TemporaryDirectory(prefix="drill-") as folder:
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(folder) / "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    outcomes = run(names, pathlib.Path(folder), quick=quick)
  print(table(outcomes))
  return int(not all(one.held for one in outcomes))


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
