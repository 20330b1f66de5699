# SPDX-License-Identifier: Apache-2.0
"""The train step beside that of Hugging Face's PyTorch T5, and what experts add to ours.

  pip install torch transformers
  python -m benchmarks.hugging_face [--json] [--rounds=8] [--dropout=0.0] [--batch=8] [--models=...]

`--torch_python=/path/to/python` gives an interpreter with those two, if they are not in this one.

4 + 4 layers, d 256, f 1024, 4 heads of 64, 8192 ids, tied logits; `--batch` x (256 + 64) tokens,
float32, one device, AdamW, and `--dropout` for both. Every other layer of a Switch model is sparse,
with capacity factor 1.25. Each model has a process of its own, with its library as it comes, and
they take turns: neither's threads or memory settings touch the other's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable

import jax
import numpy as np

from benchmarks import torch_t5
from benchmarks.timing import print_results
from benchmarks.torch_t5 import (
  D_FF,
  D_KV,
  D_MODEL,
  DECODER_LENGTH,
  ENCODER_LENGTH,
  HEADS,
  LAYERS,
  VOCABULARY,
  experts_of,
  serve,
)
from switch_t5 import batch as batch_lib
from switch_t5.cli.dataset import DatasetConfig
from switch_t5.cli.session import open_session
from switch_t5.cli.train_config import TrainConfig
from switch_t5.model.config import ModelConfig
from switch_t5.model.router_config import RouterConfig
from switch_t5.optim.adafactor import adafactor
from switch_t5.optim.adamw import adamw
from switch_t5.optim.schedules import learning_rate_schedule
from switch_t5.training.init import init_state

HUGGING_FACE = "hugging face"
MODELS = (
  HUGGING_FACE,
  f"{HUGGING_FACE} switch 8",
  f"{HUGGING_FACE} switch 64",
  "dense",
  "switch 8",
  "switch 64",
  "dense adafactor",
  "switch 8 adafactor",
  "switch 64 adafactor",
)


def full_rows(batch_size: int) -> dict[str, np.ndarray]:
  """Returns the features of rows without padding, of random ids."""
  draw = np.random.default_rng(0)
  inputs = draw.integers(2, VOCABULARY, (batch_size, ENCODER_LENGTH), np.int32)
  targets = draw.integers(2, VOCABULARY, (batch_size, DECODER_LENGTH), np.int32)
  whole = np.ones_like(targets)
  return {
    batch_lib.ENCODER_INPUT_TOKENS: inputs,
    batch_lib.ENCODER_SEGMENT_IDS: np.ones_like(inputs),
    batch_lib.DECODER_INPUT_TOKENS: batch_lib.shift_right(targets, whole),
    batch_lib.DECODER_TARGET_TOKENS: targets,
    batch_lib.DECODER_SEGMENT_IDS: whole,
    batch_lib.DECODER_LOSS_WEIGHTS: whole.astype(np.float32),
  }


def our_model(num_experts: int, dropout_rate: float = 0.0) -> ModelConfig:
  """Returns the same model as `torch_t5.hugging_face_model`."""
  sparse = LAYERS // 2 if num_experts else 0
  quiet = RouterConfig(exploration="argmax")
  return ModelConfig(
    VOCABULARY,
    D_MODEL,
    D_FF,
    D_KV,
    HEADS,
    LAYERS,
    LAYERS,
    num_experts=num_experts,
    num_encoder_sparse_layers=sparse,
    num_decoder_sparse_layers=sparse,
    sequences_per_group=2,
    decoder_sequences_per_group=8,
    dropout_rate=dropout_rate,
    encoder_router=quiet,
    decoder_router=quiet,
    activation_dtype="float32",
    scan_unroll=LAYERS,
  )


def our_step(name: str, batch_size: int, dropout_rate: float) -> Callable[[], object]:
  """Returns a program that runs one of our train steps to its end."""
  lengths = {"inputs": ENCODER_LENGTH, "targets": DECODER_LENGTH}
  config = TrainConfig(
    model_dir="not written",
    model=our_model(experts_of(name), dropout_rate),
    dataset=DatasetConfig("embedded_span_corruption", lengths, batch_size),
    total_steps=1,
    learning_rate=learning_rate_schedule(),
    optimizer=adafactor if name.endswith("adafactor") else adamw,
  )
  session = open_session(config)
  batch = session.place(full_rows(batch_size))
  with jax.set_mesh(session.mesh):
    state = init_state(session.definition, session.optimizer, session.abstract, seed=0)
    train_step = session.train_step(session.trace_train_step(state).lower().compile())

  def step() -> None:
    nonlocal state
    state, metrics = train_step(state, batch)
    jax.block_until_ready(metrics)

  return step


def start(name: str, arguments: argparse.Namespace) -> subprocess.Popen[str]:
  """Starts a worker and waits until it has compiled."""
  command = [sys.executable, "-m", "benchmarks.hugging_face"]
  if name.startswith(HUGGING_FACE):
    command = [arguments.torch_python, torch_t5.__file__]
  flags = [f"--worker={name}", f"--batch={arguments.batch}", f"--dropout={arguments.dropout}"]
  worker = subprocess.Popen(
    [*command, *flags],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
  )
  assert worker.stdout is not None
  if worker.stdout.readline() != "ready\n":
    raise SystemExit(f"The worker of {name} ended; its message is above.")
  return worker


def take_turn(worker: subprocess.Popen[str]) -> tuple[float, float]:
  """Returns a turn's seconds per step, the median, and minor page faults per step."""
  assert worker.stdin is not None and worker.stdout is not None
  worker.stdin.write("go\n")
  worker.stdin.flush()
  seconds, faults = json.loads(worker.stdout.readline())
  return seconds, faults


def measure(arguments: argparse.Namespace) -> dict[str, float]:
  """Returns milliseconds and faults of each model, and the ratios to Hugging Face and to dense."""
  workers = {name: start(name, arguments) for name in arguments.models.split(",")}
  turns: dict[str, list[tuple[float, float]]] = {name: [] for name in workers}
  for _ in range(arguments.rounds):
    for name, worker in workers.items():
      turns[name].append(take_turn(worker))
  for worker in workers.values():
    worker.communicate()
  seconds = {name: statistics.median(s for s, _ in of_name) for name, of_name in turns.items()}
  results = {f"{name}, ms": value * 1e3 for name, value in seconds.items()}
  for name, value in seconds.items():
    if not name.startswith(HUGGING_FACE):
      results[f"{name}, page faults"] = statistics.median(faults for _, faults in turns[name])
    for base in bases(name):
      if base in seconds:
        results[f"{name} / {base}"] = value / seconds[base]
  return results


def bases(name: str) -> list[str]:
  """Returns what a model is compared with: the dense one beside it, and Hugging Face's of its kind."""
  kind = f" switch {experts_of(name)}" if experts_of(name) else ""
  if name.startswith(HUGGING_FACE):
    return [HUGGING_FACE] if kind else []
  if name.endswith("adafactor"):
    return ["dense adafactor"] if kind else []
  return [HUGGING_FACE + kind, *(["dense"] if kind else [])]


def main() -> None:
  """Prints the ratios."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--json", action="store_true")
  parser.add_argument("--rounds", type=int, default=8)
  parser.add_argument("--dropout", type=float, default=0.0)
  parser.add_argument("--batch", type=int, default=8, help="sequences")
  parser.add_argument("--models", default=",".join(MODELS), help=", ".join(MODELS))
  parser.add_argument("--torch_python", default=sys.executable)
  parser.add_argument("--worker", choices=MODELS, help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  if arguments.worker:
    serve(our_step(arguments.worker, arguments.batch, arguments.dropout))
    return
  print_results(measure(arguments), arguments.json)


if __name__ == "__main__":
  main()
