# SPDX-License-Identifier: Apache-2.0
"""The train step beside that of Hugging Face's PyTorch T5, and what experts add to ours.

  pip install torch transformers
  python -m benchmarks.hugging_face [--json] [--rounds=8] [--dropout=0.0] [--batch=8] [--models=...]

`--torch_python=/path/to/python` gives an interpreter with those two, if they are not in this one.

4 + 4 layers, d 256, f 1024, 4 heads of 64, 8192 ids, tied logits; `--batch` x (256 + 64) tokens,
float32, one device, AdamW, and `--dropout` for both. Every other layer of a Switch model is sparse,
with capacity factor 1.25. Each model has a process of its own, with its library as
it comes, and they take turns: neither's threads or memory settings touch the other's.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

VOCABULARY, D_MODEL, D_FF, D_KV, HEADS, LAYERS = 8192, 256, 1024, 64, 4, 4
ENCODER_LENGTH, DECODER_LENGTH = 256, 64
STEPS = 5  # of a turn
WARM_UP = 20  # until freed memory is laid out so that no step asks the system for more
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


def experts_of(name: str) -> int:
  """Returns the number of experts that a name of `MODELS` says, 0 for a dense model."""
  return next((int(word) for word in name.split() if word.isdigit()), 0)


def full_rows(batch_size: int) -> dict[str, np.ndarray]:
  """Returns the features of rows without padding, of random ids."""
  from switch_t5 import batch as batch_lib

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


def our_step(name: str, batch_size: int, dropout_rate: float) -> Callable[[], object]:
  """Returns a program that runs one of our train steps to its end."""
  import jax

  from switch_t5.cli.dataset import DatasetConfig
  from switch_t5.cli.session import open_session
  from switch_t5.cli.train_config import TrainConfig
  from switch_t5.model.config import ModelConfig
  from switch_t5.optim.adafactor import adafactor
  from switch_t5.optim.adamw import adamw
  from switch_t5.optim.schedules import learning_rate_schedule
  from switch_t5.training.init import init_state
  from switch_t5.training.objective import CrossEntropyObjective
  from switch_t5.training.train_step import build_train_step

  num_experts = experts_of(name)
  sparse = LAYERS // 2 if num_experts else 0
  model = ModelConfig(
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
    jitter_noise=0.0,
    activation_dtype="float32",
    scan_unroll=LAYERS,
  )
  lengths = {"inputs": ENCODER_LENGTH, "targets": DECODER_LENGTH}
  config = TrainConfig(
    model_dir="not written",
    model=model,
    dataset=DatasetConfig("embedded_span_corruption", lengths, batch_size),
    total_steps=1,
    learning_rate=learning_rate_schedule(),
    optimizer=adafactor if name.endswith("adafactor") else adamw,
  )
  session = open_session(config)
  batch = session.place(full_rows(batch_size))
  objective = CrossEntropyObjective(config.loss, session.model.train_capacity_factor)
  with jax.set_mesh(session.mesh):
    state = init_state(session.definition, session.optimizer, session.abstract, seed=0)
    compiled = (
      build_train_step(
        session.definition,
        session.optimizer,
        objective,
        session.abstract,
        num_microbatches=1,
        seed=0,
      )
      .lower(state, session.abstract_batch())
      .compile()
    )

  def step() -> None:
    nonlocal state
    state, metrics = compiled(state, batch)
    jax.block_until_ready(metrics)

  return step


def hugging_face_step(
  num_experts: int, batch_size: int, dropout_rate: float
) -> Callable[[], object]:
  """Returns a program that runs one step of Hugging Face's T5 under PyTorch's AdamW."""
  import torch
  import transformers

  torch.manual_seed(0)
  sizes = {
    "vocab_size": VOCABULARY,
    "d_model": D_MODEL,
    "d_ff": D_FF,
    "d_kv": D_KV,
    "num_heads": HEADS,
    "num_layers": LAYERS,
    "num_decoder_layers": LAYERS,
    "dropout_rate": dropout_rate,
    "decoder_start_token_id": 0,
  }
  if num_experts:
    # Its capacity is that of one sequence, and the same in both stacks.
    config = transformers.SwitchTransformersConfig(
      **sizes,
      num_experts=num_experts,
      num_sparse_encoder_layers=LAYERS // 2,
      num_sparse_decoder_layers=LAYERS // 2,
      expert_capacity=math.ceil(1.25 * ENCODER_LENGTH / num_experts),
      router_jitter_noise=0.0,
    )
    model = transformers.SwitchTransformersForConditionalGeneration(config).train()
  else:
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes)).train()
  optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
  inputs = torch.randint(2, VOCABULARY, (batch_size, ENCODER_LENGTH))
  labels = torch.randint(2, VOCABULARY, (batch_size, DECODER_LENGTH))

  def step() -> None:
    optimizer.zero_grad()
    model(input_ids=inputs, labels=labels).loss.backward()
    optimizer.step()

  return step


def work(name: str, batch_size: int, dropout_rate: float) -> None:
  """A worker: for each line of stdin, runs a turn and writes its seconds and page faults."""
  if name.startswith(HUGGING_FACE):
    step = hugging_face_step(experts_of(name), batch_size, dropout_rate)
  else:
    step = our_step(name, batch_size, dropout_rate)
  for _ in range(WARM_UP):
    step()
  print("ready", flush=True)
  for _ in sys.stdin:
    seconds = []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(STEPS):
      started = time.perf_counter()
      step()
      seconds.append(time.perf_counter() - started)
    faults = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / STEPS
    print(json.dumps([statistics.median(seconds), faults]), flush=True)


def start(name: str, arguments: argparse.Namespace) -> subprocess.Popen[str]:
  """Starts a worker and waits until it has compiled."""
  python = arguments.torch_python if name.startswith(HUGGING_FACE) else sys.executable
  flags = [f"--worker={name}", f"--batch={arguments.batch}", f"--dropout={arguments.dropout}"]
  worker = subprocess.Popen(
    [python, "-m", "benchmarks.hugging_face", *flags],
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
    work(arguments.worker, arguments.batch, arguments.dropout)
    return
  results = {name: round(value, 3) for name, value in measure(arguments).items()}
  if arguments.json:
    print(json.dumps(results))
  else:
    for name, value in results.items():
      print(f"{name:<38} {value:9.3f}")


if __name__ == "__main__":
  main()
