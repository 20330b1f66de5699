# SPDX-License-Identifier: Apache-2.0
"""Decoding with the cache, greedy and with beams, beside Hugging Face's `generate`.

  pip install torch transformers
  python -m benchmarks.decode [--json] [--rounds=3] [--batches=1,4,16,64] [--beams=1,4] [--experts=0,8,64]

`--torch_python=/path/to/python` gives an interpreter with those two, if they are not in this one.

4 + 4 layers, d 256, f 1024, 4 heads of 64, 8192 ids, tied logits; every other layer of a Switch model
is sparse. 256 tokens in, 64 tokens out, the encoder's time included; float32; no answer ends early.
Nothing is dropped by either. Each model has a process of its own; they take turns.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys

import jax
import numpy as np

from benchmarks import torch_t5
from benchmarks.hugging_face import our_model
from benchmarks.timing import print_results
from benchmarks.torch_t5 import (
  DECODER_LENGTH,
  ENCODER_LENGTH,
  VOCABULARY,
  Generate,
  experts_of,
  serve_generate,
)
from switch_t5.decoding import DecodingConfig
from switch_t5.inference.programs import Programs
from switch_t5.model.definition import define_model
from switch_t5.sharding.mesh import MeshShape, make_mesh

HUGGING_FACE = "hugging face"
_NO_ID = -1  # in place of EOS


def our_generate(num_experts: int) -> Generate:
  """Returns a program that decodes."""
  definition, mesh = define_model(our_model(num_experts)), make_mesh(MeshShape())
  with jax.set_mesh(mesh):
    params = jax.jit(definition.init)(jax.random.key(0))
  programs: dict[int, Programs] = {}
  draw = np.random.default_rng(0)

  def generate(batch_size: int, beams: int) -> object:
    if batch_size not in programs:
      programs[batch_size] = Programs(definition, mesh, batch_size, _NO_ID)
    inputs = draw.integers(2, VOCABULARY, (batch_size, ENCODER_LENGTH)).tolist()
    config = DecodingConfig(max_tokens=DECODER_LENGTH, num_beams=beams, length_penalty=1.0)
    return programs[batch_size].decode(params, inputs, range(batch_size), config)

  return generate


class Worker:
  """A model in a process of its own."""

  def __init__(self, name: str, torch_python: str):
    command = [sys.executable, "-m", "benchmarks.decode"]
    if name.startswith(HUGGING_FACE):
      command = [torch_python, torch_t5.__file__, "--generate"]
    self._process = subprocess.Popen(
      [*command, f"--worker={name}"],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    if self._read() != "ready\n":
      raise SystemExit(f"The worker of {name} ended; its message is above.")

  def seconds(self, batch_size: int, beams: int) -> float:
    """Returns the seconds of one run."""
    assert self._process.stdin is not None
    self._process.stdin.write(f"{batch_size} {beams}\n")
    self._process.stdin.flush()
    return float(json.loads(self._read()))

  def close(self) -> None:
    """Ends the process."""
    self._process.communicate()

  def _read(self) -> str:
    assert self._process.stdout is not None
    return self._process.stdout.readline()


def measure(arguments: argparse.Namespace) -> dict[str, float]:
  """Returns tokens per second of each model and shape, and ours over Hugging Face's."""
  results = {}
  for experts in map(int, arguments.experts.split(",")):
    ours = f"switch {experts}" if experts else "dense"
    names = (ours, f"{HUGGING_FACE} {ours}")
    workers = [Worker(name, arguments.torch_python) for name in names]
    shapes = itertools.product(arguments.beams.split(","), arguments.batches.split(","))
    for beams, batch in shapes:
      shape = int(batch), int(beams)
      for worker in workers:
        worker.seconds(*shape)  # compiled and warm
      turns = [[worker.seconds(*shape) for worker in workers] for _ in range(arguments.rounds)]
      tokens = shape[0] * DECODER_LENGTH
      rates = [tokens / statistics.median(times) for times in zip(*turns, strict=True)]
      label = f"batch {batch}, {'greedy' if shape[1] == 1 else f'{beams} beams'}"
      results |= {
        f"{name}, {label}, tokens/s": rate for name, rate in zip(names, rates, strict=True)
      }
      results[f"{names[0]} / {names[1]}, {label}"] = rates[0] / rates[1]
    for worker in workers:
      worker.close()
  return results


def main() -> None:
  """Prints the ratios."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--json", action="store_true")
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--batches", default="1,4,16,64")
  parser.add_argument("--beams", default="1,4")
  parser.add_argument("--experts", default="0,8,64", help="0: dense")
  parser.add_argument("--torch_python", default=sys.executable)
  parser.add_argument("--worker", help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  if arguments.worker:
    serve_generate(our_generate(experts_of(arguments.worker)))
    return
  print_results(measure(arguments), arguments.json)


if __name__ == "__main__":
  main()
