# SPDX-License-Identifier: Apache-2.0
"""Conversions of a large checkpoint: memory beyond a tiny one's, in largest arrays, and bytes a second.

  python -m benchmarks.convert_checkpoint [--json] [--model=models/switch_base_8.gin] [--folder=FOLDER]

A random model (Switch-Base with 8 experts: 619 M parameters, 2.5 GB) with Adafactor's state is written
as T5X writes it, then converted by the command from format to format, each conversion a process of its
own. Its peak memory less that of the same conversion of a tiny model is what the arrays took. "Largest
array" is that of what is read or written: in our own checkpoints layers are stacked.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np

from benchmarks.adafactor_slots import adafactor_slots
from benchmarks.timing import print_results
from switch_t5.cli import gin_setup
from switch_t5.cli.configurables import CONFIGURABLES
from switch_t5.interop.checkpoint import (
  PARAM_STATES,
  PARAMETERS,
  STEP,
  StoredArray,
  StoredCheckpoint,
)
from switch_t5.interop.model_shape import expected_shapes
from switch_t5.interop.t5x_native import write_t5x
from switch_t5.model.config import ModelConfig
from switch_t5.model.definition import define_model

# Title, action, --format, what is converted and where to; "t5x" is there from the start.
CONVERSIONS = (
  ("t5x -> switch_t5", "import", None, "t5x", "own"),
  ("switch_t5 -> t5x", "export", "t5x", "own", "t5x_again"),
  ("switch_t5 -> orbax", "export", "orbax", "own", "orbax"),
  ("switch_t5 -> huggingface", "export", "huggingface", "own", "huggingface"),
  ("switch_t5 -> safetensors", "export", "safetensors", "own", "safetensors"),
  ("huggingface -> switch_t5", "import", None, "huggingface", "own_again"),
)
TINY = ModelConfig(
  vocab_size=128,
  d_model=8,
  d_ff=16,
  d_kv=4,
  num_heads=2,
  num_encoder_layers=2,
  num_decoder_layers=2,
  num_experts=2,
  num_encoder_sparse_layers=1,
  num_decoder_sparse_layers=1,
  sequences_per_group=1,
)
_WATCH = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def random_checkpoint(model: ModelConfig) -> StoredCheckpoint:
  """Returns a checkpoint whose arrays are drawn when they are read."""
  arrays = {}
  for name, shape in expected_shapes(model).items():
    arrays[PARAMETERS + name] = _random(shape)
    for slot, size in adafactor_slots(name, shape).items():
      arrays[f"{PARAM_STATES}{name}/{slot}"] = _random(size)
  arrays[STEP] = StoredArray((), np.dtype(np.int32), lambda: np.asarray(1000, np.int32))
  return StoredCheckpoint(pathlib.Path("random"), "random", arrays)


def _random(shape: tuple[int, ...]) -> StoredArray:
  draw = functools.partial(np.random.default_rng(0).standard_normal, shape, np.float32)
  return StoredArray(shape, np.dtype(np.float32), draw)


def convert(folder: pathlib.Path, action: str, kind: str | None, source: str, to: str):
  """Runs one conversion; returns its seconds and its peak of memory in bytes."""
  command = [sys.executable, "-m", "switch_t5.cli.main", "convert", action]
  command += [f"--from={folder / source}", f"--to={folder / to}"]
  command += [f"--format={kind}"] if kind else []
  started = time.perf_counter()
  done = subprocess.run(
    [sys.executable, "-c", _WATCH, *command], capture_output=True, text=True, check=True
  )
  code, kilobytes = map(int, done.stdout.split())
  if code:
    raise RuntimeError(f"{command} failed: {done.stderr}")
  return time.perf_counter() - started, kilobytes * 1024


def prepare(model: ModelConfig, folder: pathlib.Path) -> None:
  """Writes the T5X checkpoint that all conversions start from."""
  path = folder / "t5x" / "checkpoint_1000"
  path.mkdir(parents=True)
  write_t5x(random_checkpoint(model), path, lambda name, size: None)


def largest_arrays(model: ModelConfig) -> dict[str, int]:
  """Returns the bytes of a model's largest array in T5X, where each layer has its own, and in ours."""
  ours = jax.tree.leaves(define_model(model).shapes)
  return {
    "t5x": 4 * max(map(math.prod, expected_shapes(model).values())),
    "ours": 4 * max(math.prod(leaf.shape) for leaf in ours),
  }


def measure(model_file: str, folder: pathlib.Path) -> dict[str, float]:
  """Returns the figures of all conversions."""
  rates = ["DROPOUT_RATE = 0.0", "EXPERT_DROPOUT_RATE = 0.0"]
  configured = gin_setup.load([model_file], rates, [], CONFIGURABLES).call("ModelConfig")
  changes = {"vocab_size": configured.padded_vocab_size, "group_size": None}
  model = dataclasses.replace(configured, sequences_per_group=1, **changes)
  largest = largest_arrays(model)
  size = sum(array.nbytes for array in random_checkpoint(model).arrays.values())
  results = {
    "checkpoint, GB": size / 1e9,
    "largest array of T5X's, MB": largest["t5x"] / 1e6,
    "largest array of ours, MB": largest["ours"] / 1e6,
  }
  for name, one in (("tiny", TINY), ("large", model)):
    prepare(one, folder / name)
  for title, action, kind, source, to in CONVERSIONS:
    _, base = convert(folder / "tiny", action, kind, source, to)
    seconds, peak = convert(folder / "large", action, kind, source, to)
    of_source = largest["ours" if source == "own" else "t5x"]
    results[f"{title}: peak / largest array read"] = (peak - base) / of_source
    results[f"{title}: peak / checkpoint"] = (peak - base) / size
    results[f"{title}: MB per second"] = size / 1e6 / seconds
    if to not in ("own", "huggingface"):  # what nothing reads any more
      shutil.rmtree(folder / "large" / to)
  return results


def main() -> None:
  """Prints the figures."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--json", action="store_true")
  parser.add_argument("--model", default="models/switch_base_8.gin")
  parser.add_argument("--folder", help="where some three times the checkpoint's size is free")
  arguments = parser.parse_args()
  with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
    print_results(measure(arguments.model, pathlib.Path(folder)), arguments.json)


if __name__ == "__main__":
  main()
