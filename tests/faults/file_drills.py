# SPDX-License-Identifier: Apache-2.0
"""Drills of files: damage to checkpoints, full and read-only disks, two runs in one folder.

files: a random file of the newest checkpoint is damaged in a random way: it is found by name, and the
checkpoint before it restored bit for bit. disk: a limit on the size of files ends a save, and a folder
that cannot be written ends the run; the same command goes on afterwards. folder: a second run.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator

import jax
import kill_drills
import numpy as np
import runs
from outcome import Outcome, compared, resumed_from, rows_astray

from switch_t5.checkpoint.listing import list_steps, verify_checkpoint
from switch_t5.checkpoint.manager import CheckpointManager
from switch_t5.cli import gin_setup
from switch_t5.cli.configurables import CONFIGURABLES
from switch_t5.cli.flags import parse
from switch_t5.cli.session import Session, open_session

STEPS = 12
Damage = Callable[[pathlib.Path, random.Random], None]


def flip(file: pathlib.Path, at_random: random.Random) -> None:
  """Flips one bit."""
  content = bytearray(file.read_bytes())
  content[at_random.randrange(len(content))] ^= 1 << at_random.randrange(8)
  file.write_bytes(content)


def truncate(file: pathlib.Path, at_random: random.Random) -> None:
  os.truncate(file, at_random.randrange(file.stat().st_size))


def delete(file: pathlib.Path, at_random: random.Random) -> None:
  file.unlink()


def lengthen(file: pathlib.Path, at_random: random.Random) -> None:
  with file.open("ab") as opened:
    opened.write(at_random.randbytes(at_random.randint(1, 9)))


def zero(file: pathlib.Path, at_random: random.Random) -> None:
  """As a disk leaves what was never flushed."""
  size = file.stat().st_size
  content = bytearray(file.read_bytes())
  start = at_random.randrange(size)
  content[start:] = bytes(size - start)
  if bytes(content) == file.read_bytes():  # they were zeros before
    content[start] = 1
  file.write_bytes(content)


DAMAGES: dict[str, Damage] = {
  "one bit flipped": flip,
  "cut off": truncate,
  "deleted": delete,
  "bytes appended": lengthen,
  "zeros to the end": zero,
}


def files(folder: pathlib.Path, quick: bool) -> list[Outcome]:
  """Damages a file of the newest checkpoint, restores, and mends it again, many times."""
  settings = {"TRAIN_STEPS": STEPS, "CHECKPOINT_PERIOD": 4}
  kill_drills.train_here(folder, **settings)
  checkpoints = folder / "model" / "checkpoints"
  newest = checkpoints / f"checkpoint_{STEPS}"
  names = sorted(str(p.relative_to(newest)) for p in newest.rglob("*") if p.is_file())
  command_line = parse(["train", *kill_drills.flags(folder, **settings)])
  session = open_session(gin_setup.load_command_line(command_line, CONFIGURABLES).call("train"))
  _, before = _restored(checkpoints, session, STEPS - 4)
  at_random, count = random.Random(0), 40 if quick else 1000
  found: dict[str, list[tuple[bool, bool]]] = {kind: [] for kind in DAMAGES}
  for turn in range(count):
    kind = list(DAMAGES)[turn % len(DAMAGES)]
    # By turns, so that small files are damaged as often as those of arrays.
    name = names[(turn // len(DAMAGES)) % len(names)]
    content = (newest / name).read_bytes()
    DAMAGES[kind](newest / name, at_random)
    named = [problem.file for problem in verify_checkpoint(newest)] == [name]
    restored, arrays = _restored(checkpoints, session)
    fell_back = restored.step == STEPS - 4 and restored.skipped[0].reason.startswith(f"{name}: ")
    found[kind].append((named, fell_back and arrays == before))
    (newest / name).write_bytes(content)
  return [
    Outcome(
      f"a file of a checkpoint: {kind}",
      len(tries),
      sum(named for named, _ in tries),
      "one save" if all(fell_back for _, fell_back in tries) else "**wrong state**",
      final="the save before, bit for bit",
      held=all(named and fell_back for named, fell_back in tries),
    )
    for kind, tries in found.items()
  ]


def _restored(checkpoints: pathlib.Path, session: Session, step: int | None = None):
  """Returns what is restored, and the bytes of its arrays."""
  manager = CheckpointManager(checkpoints)
  with contextlib.closing(manager), session.on_mesh():
    restored = manager.restore(session.abstract, step)
  assert restored is not None
  return restored, [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(restored.state)]


def disk(folder: pathlib.Path, quick: bool) -> list[Outcome]:
  """Trains on a full and on a read-only disk, then on a good one."""
  kill_drills.train_here(folder / "undisturbed", TRAIN_STEPS=STEPS)
  outcomes = []
  faults = {
    "full disk (no file over 100 kB)": _file_limit,
    "read-only folder of checkpoints": _read_only,
  }
  for name, fault in [*faults.items()][: 1 if quick else None]:
    here = folder / name.split()[0]
    kill_drills.train_here(here, TRAIN_STEPS=4)
    good = list_steps(here / "model" / "checkpoints")
    given = kill_drills.flags(here, TRAIN_STEPS=STEPS)
    with fault(here / "model") as before:
      if before is None:
        continue
      started = time.monotonic()
      process = runs.start("train", *given, before=before)
      code, output = runs.finish(process)
      seconds = time.monotonic() - started
    logged = runs.last_step(here / "model")
    kept = list_steps(here / "model" / "checkpoints")
    intact = all(not verify_checkpoint(here / f"model/checkpoints/checkpoint_{s}") for s in kept)
    said = code == 3 and "was not saved" in output and "Traceback" not in output
    code, output, errors = runs.run_here("train", *given)
    lost = logged - resumed_from(output + errors)
    final, same = compared(here / "model", folder / "undisturbed" / "model", STEPS)
    astray = rows_astray(here / "model", STEPS)
    held = said and intact and set(good) <= set(kept) and code == 0 and same and not astray
    outcomes.append(
      Outcome(name, 1, int(said), str(lost), str(astray), final, held, f"{seconds:.0f}")
    )
  return outcomes


@contextlib.contextmanager
def _file_limit(model_dir: pathlib.Path) -> Iterator[list[str] | None]:
  """Yields what a command begins with so that no file it writes may grow over 100 kB."""
  yield ["prlimit", "--fsize=100000"] if shutil.which("prlimit") else None


@contextlib.contextmanager
def _read_only(model_dir: pathlib.Path) -> Iterator[list[str] | None]:
  """Lets nobody write to the folder of checkpoints; root by another mount, which may be refused."""
  checkpoints = model_dir / "checkpoints"
  if os.geteuid():
    checkpoints.chmod(0o555)
    yield []
    checkpoints.chmod(0o755)
    return
  bound = subprocess.run(["mount", "--bind", checkpoints, checkpoints], capture_output=True)
  if bound.returncode:
    yield None
    return
  try:
    subprocess.run(["mount", "-o", "remount,bind,ro", checkpoints], check=True)
    yield []
  finally:
    subprocess.run(["umount", checkpoints], check=True)


def folder(folder: pathlib.Path, quick: bool) -> list[Outcome]:
  """Starts a second run in a folder, at a random moment of the first, some times."""
  tries, refused = 1 if quick else 10, 0
  given = kill_drills.flags(folder, TRAIN_STEPS=10**6)
  first = runs.start("train", *given)
  try:
    runs.wait_for_step(first, folder / "model", 1)
    for _ in range(tries):
      code, output = runs.finish(runs.start("train", *given))
      refused += code == 2 and f"held by process {first.pid} on" in output
    first.terminate()
    code, _ = runs.finish(first)
  finally:
    first.kill()
  steps = list_steps(folder / "model" / "checkpoints")[-1]
  kill_drills.train_here(folder / "undisturbed", TRAIN_STEPS=steps)
  final, same = compared(folder / "model", folder / "undisturbed" / "model", steps)
  astray = rows_astray(folder / "model", steps)
  held = refused == tries and code == 75 and same and not astray
  return [Outcome("a second run in the folder", tries, refused, "0", str(astray), final, held)]
