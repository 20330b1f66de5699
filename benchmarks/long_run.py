# SPDX-License-Identifier: Apache-2.0
"""What a long run costs beside its steps: memory that grows, and saves.

python -m benchmarks.long_run [--steps=10000] [--demo_steps=350]

The first part trains a tiny model for so many steps, with a save every 100, and watches the process's
resident memory. The second trains the demo with a save every 100 steps: what saves cost is the time that
the loop waits for them, and how much longer the log windows are in which one is written and hashed.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from switch_t5.metrics.writer import METRICS_FILE, read_metrics

PERIOD = 100  # steps between saves
WINDOW = 10  # steps of a log line
_TINY = {
  "ModelConfig.d_model": 32,
  "ModelConfig.d_ff": 64,
  "ModelConfig.num_encoder_layers": 2,
  "ModelConfig.num_decoder_layers": 2,
  "TASK_FEATURE_LENGTHS": {"inputs": 32, "targets": 16},
  "BATCH_SIZE": 8,
}


def start(model_dir: pathlib.Path, **macros: object) -> subprocess.Popen[bytes]:
  """Starts a run of the demo with these bindings in place of its own."""
  given = {
    "MODEL_DIR": str(model_dir),
    "CHECKPOINT_PERIOD": PERIOD,
    "EVAL_PERIOD": 10**7,
    "LOG_PERIOD": WINDOW,
    "train.show_samples": 0,
    "train.eval_steps": 1,
  } | macros
  flags = [f"--gin.{name}={value!r}" for name, value in given.items()]
  command = [sys.executable, "-m", "switch_t5.cli.main", "train"]
  return subprocess.Popen(
    [*command, "--gin_file=recipes/pretrain_demo.gin", *flags],
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )


def memory(folder: pathlib.Path, steps: int) -> None:
  """Prints the resident memory of a run by its steps."""
  process = start(folder / "model", TRAIN_STEPS=steps, **_TINY)
  print("| step | resident, MB |\n|---|---|")
  found: list[tuple[int, float]] = []
  while process.poll() is None:
    time.sleep(0.5)
    path = folder / "model" / METRICS_FILE
    step = int(read_metrics(path)[-1]["step"]) if path.exists() and path.stat().st_size else 0
    if step // (steps // 10) > len(found):
      found.append((step, _resident(process.pid)))
      print(f"| {step:,} | {found[-1][1]:.1f} |", flush=True)
  half = found[len(found) // 2 - 1 :]
  grown = (half[-1][1] - half[0][1]) / (half[-1][0] - half[0][0]) * 1000
  print(
    f"\nFrom step {half[0][0]:,} on {grown * 1000:.0f} kB in 1,000 steps; exit {process.returncode}.\n"
  )


def _resident(process: int) -> float:
  """Returns megabytes."""
  status = pathlib.Path(f"/proc/{process}/status").read_text()
  line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
  return int(line.split()[1]) / 1024


def saves(folder: pathlib.Path, steps: int) -> None:
  """Prints what saves cost of the demo's time."""
  process = start(folder / "model", TRAIN_STEPS=steps)
  process.wait()
  rows = [r for r in read_metrics(folder / "model" / METRICS_FILE) if "train/loss" in r]
  compute = [row["goodput/compute_seconds"] for row in rows]
  windows = {
    int(row["step"]): later - before
    for row, before, later in zip(rows[1:], compute[:-1], compute[1:], strict=True)
  }
  # A save begins at the end of a window, and is written in the next ones.
  writing = {s: w for s, w in windows.items() if s > PERIOD and s % PERIOD in (WINDOW, 2 * WINDOW)}
  others = statistics.median(w for s, w in windows.items() if s not in writing)
  longer = sum(window - others for window in writing.values())
  # The last save is waited for at the end of the run; a run that goes on does not wait.
  waited = rows[-1]["goodput/checkpoint_seconds"]
  count = (steps - 1) // PERIOD
  per_save = (longer + waited) / count
  share = per_save / (others * PERIOD / WINDOW)
  print(
    f"{count} saves of the demo: the loop waited {waited / count * 1000:.0f} ms for each, and the windows in which "
    f"they were written were {longer / count * 1000:+.0f} ms longer; together {share:.2%} of {PERIOD} steps' time "
    f"({others * PERIOD / WINDOW:.0f} s); exit {process.returncode}."
  )


def main() -> None:
  """Runs both parts."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--steps", type=int, default=10_000)
  parser.add_argument("--demo_steps", type=int, default=350)
  given = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    memory(pathlib.Path(folder) / "long", given.steps)
    saves(pathlib.Path(folder) / "demo", given.demo_steps)


if __name__ == "__main__":
  main()
