# SPDX-License-Identifier: Apache-2.0
"""Drills of the demo's model.

meshes: 20 steps on six meshes print the same loss. plans: its step compiled for TPUs that are not here,
twice at once, sends tokens as the layouts need (the extra `plan`).
"""

from __future__ import annotations

import json
import pathlib

import runs

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
