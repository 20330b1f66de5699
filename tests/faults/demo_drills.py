# SPDX-License-Identifier: Apache-2.0
"""Drills of whole runs, most on the demo's model: `scripts/drill.sh [NAME ...]`.

kills: kill -9 at a random moment between steps 5 and 25, ten times, then to the end: parameters and
optimizer state are bit for bit those of an undisturbed run. damage: each file of the newest checkpoint
with one bit flipped, then missing, then truncated: it is named, and training falls back. meshes: 20
steps on six meshes print the same loss. plans: its step compiled for TPUs that are not here, twice at
once, sends tokens as the layouts need. processes: 1 x 8, 2 x 4 and 4 x 2 processes and devices train
alike and go on from each other's checkpoints. lost: one of four processes is killed, stopped or
terminated: the others end as they should, and all go on. unlike: processes that differ end before
anything is done, and name the key. hangs: a process of two stands still: the other says so, and ends or
goes on. storage, flaky, two: see storage_drills. Exits with 1 if any of this does not hold.
"""

from __future__ import annotations

import json
import pathlib
import random
import shutil
import sys
import tempfile
import time

import hang_drills
import process_drills
import runs
import storage_drills
from damage import DAMAGES

MESHES = ((1, 1, 1), (8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 4, 2), (1, 1, 4))
TOLERANCE = 1e-4


def demo_flags(folder: pathlib.Path, **macros: object) -> list[str]:
  """Returns the flags of the demo without what it shows at its end; `macros` win."""
  given = {
    "MODEL_DIR": str(folder),
    "LOG_PERIOD": 1,
    "EVAL_PERIOD": 10**6,
    "train.eval_steps": 1,
    "train.show_samples": 0,
  }
  settings = (given | macros).items()
  return ["--gin_file=recipes/pretrain_demo.gin", *(f"--gin.{n}={v!r}" for n, v in settings)]


def train(*flags: str) -> str:
  """Trains to the end and returns what was printed."""
  code, output = runs.finish(runs.start("train", *flags))
  if code:
    raise RuntimeError(f"train ended with {code}:\n{output}")
  return output


def kills(folder: pathlib.Path, *, count: int = 10, steps: int = 30) -> bool:
  """Kills a run `count` times and compares its end with an undisturbed one's."""
  settings = {"TRAIN_STEPS": steps, "CHECKPOINT_PERIOD": 3}
  train(*demo_flags(folder / "undisturbed", **settings))
  moments = random.Random()
  print("| kill | seconds after step | last step logged | resumed from |\n|---|---|---|---|")
  model_dir = folder / "killed"
  for kill in range(1, count + 1):
    process = runs.start("train", *demo_flags(model_dir, **settings))
    # What was done stays done: the window from 5 to 25 is walked through in `count` parts.
    step = 5 + round((kill - 1) * 20 / count)
    runs.wait_for_step(process, model_dir, max(step, runs.last_step(model_dir)))
    delay = moments.uniform(0, 1.5)
    time.sleep(delay)
    process.kill()
    _, output = runs.finish(process)
    print(f"| {kill} | {delay:.2f} after {step} | {runs.last_step(model_dir)} | {_start(output)} |")
  output = train(*demo_flags(model_dir, **settings))
  one, other = (runs.arrays(folder / name, steps) for name in ("killed", "undisturbed"))
  differing = runs.differing(one, other)
  print(f"| to the end | | {runs.last_step(model_dir)} | {_start(output)} |")
  print(f"{len(one)} arrays at step {steps}: {len(differing)} differ from the undisturbed run's.\n")
  return not differing


def _start(output: str) -> str:
  line = next(
    (line for line in output.splitlines() if line.startswith("Resuming")), "the beginning"
  )
  return line.partition(",")[0].removeprefix("Resuming from ")


def damage(folder: pathlib.Path) -> bool:
  """Damages each file of the newest checkpoint in turn; verifies, and trains once per kind."""
  settings = {"TRAIN_STEPS": 4, "CHECKPOINT_PERIOD": 2}
  pristine = folder / "pristine"
  train(*demo_flags(pristine, **settings))
  newest = pathlib.Path("checkpoints", "checkpoint_4")
  files = sorted(p.relative_to(pristine / newest) for p in (pristine / newest).rglob("*"))
  files = [file for file in files if (pristine / newest / file).is_file()]
  held = True
  print("| damage | files | named, exit code 3 | training fell back to step 2 and said so |")
  print("|---|---|---|---|")
  for kind, inflict in DAMAGES.items():
    named = fell_back = 0
    for file in files:
      copy = shutil.copytree(pristine, folder / "damaged")
      inflict(copy / newest / file)
      code, output, _ = runs.run_here("checkpoint", "verify", str(copy))
      named += code == 3 and f"    {file}: " in output
      code, output, _ = runs.run_here("train", *demo_flags(copy, **settings), "--gin.TRAIN_STEPS=2")
      said = f"Checkpoint 4 is damaged and was passed over: {file}: " in output
      fell_back += code == 0 and said and "Resuming from step 2" in output
      shutil.rmtree(copy)
    print(f"| {kind} | {len(files)} | {named} | {fell_back} |")
    held &= named == fell_back == len(files)
  print()
  return held


def meshes(folder: pathlib.Path, *, steps: int = 20) -> bool:
  """Trains on each mesh and compares the losses of every step with those of one device."""
  first: dict[int, float] = {}
  worst = 0.0
  print(f"| mesh | loss at step 1 | loss at step {steps} | largest relative difference |")
  print("|---|---|---|---|")
  for mesh in MESHES:
    model_dir = folder / "mesh_{}_{}_{}".format(*mesh)
    train(*demo_flags(model_dir, TRAIN_STEPS=steps, MESH_SHAPE=mesh), "--emulate_devices=8")
    losses = runs.losses(model_dir)
    first = first or losses
    difference = max(abs(losses[step] / first[step] - 1) for step in first)
    worst = max(worst, difference)
    print(f"| {mesh} | {losses[1]:.6f} | {losses[steps]:.6f} | {difference:.1e} |", flush=True)
  print()
  return worst <= TOLERANCE


def plans(folder: pathlib.Path) -> bool:
  """Plans the demo's model for TPUs twice at once (the extra `plan`): tokens cross as the layout needs."""
  held = True
  print("| mesh | exit code | all-to-all, bytes | the least |")
  print("|---|---|---|---|")
  meshes = ((1, 8, 1), (2, 2, 2))
  # Of float32 a TPU's matmuls take half, and XLA sends no more.
  dtype = {"ModelConfig.activation_dtype": "bfloat16"}
  flags = [demo_flags(folder / "none", MESH_SHAPE=mesh, **dtype) for mesh in meshes]
  started = [
    runs.start("plan", *given, "--topology=v5e:2x4", f"--to={folder / str(index)}")
    for index, given in enumerate(flags)
  ]
  for index, (mesh, process) in enumerate(zip(meshes, started, strict=True)):
    code, output = runs.finish(process, timeout=1800)
    if code:
      print(output)
      return False
    plan = json.loads((folder / str(index) / "plan.json").read_text())
    sent, least = (
      sum(c["total"] for c in plan[name] if c["kind"] == "all-to-all")
      for name in ("collectives", "bounds")
    )
    print(f"| {mesh} | {code} | {sent:,} | {least:,} |", flush=True)
    held &= sent == least > 0
  print()
  return held


def main(names: list[str]) -> int:
  """Runs the drills named, or all; returns the exit code."""
  all_drills = {
    "kills": kills,
    "damage": damage,
    "meshes": meshes,
    "plans": plans,
    "processes": process_drills.processes,
    "lost": process_drills.lost,
    "unlike": process_drills.unlike,
    "hangs": hang_drills.hangs,
    "storage": storage_drills.storage,
    "flaky": storage_drills.flaky,
    "two": storage_drills.two,
  }
  verdicts = {}
  for name in names or all_drills:
    with tempfile.TemporaryDirectory(prefix="drill-") as folder:
      started = time.monotonic()
      holds = all_drills[name](pathlib.Path(folder))
      verdicts[name] = f"{'holds' if holds else 'FAILS'} ({time.monotonic() - started:.0f} s)"
  for name, verdict in verdicts.items():
    print(f"{name}: {verdict}")
  return int(any("FAILS" in verdict for verdict in verdicts.values()))


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
