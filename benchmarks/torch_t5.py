# SPDX-License-Identifier: Apache-2.0
"""A worker of `hugging_face` and `decode`: Hugging Face's T5, and what all workers share.

Run as a file, it loads nothing of ours: `switch_t5` would set the process's memory thresholds.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

Generate = Callable[[int, int], object]  # of a batch size and a number of beams

VOCABULARY, D_MODEL, D_FF, D_KV, HEADS, LAYERS = 8192, 256, 1024, 64, 4, 4
ENCODER_LENGTH, DECODER_LENGTH = 256, 64
STEPS = 5  # of a turn
WARM_UP = 20  # until freed memory is laid out so that no step asks the system for more


def experts_of(name: str) -> int:
  """Returns the number of experts that a name of `MODELS` says, 0 for a dense model."""
  return next((int(word) for word in name.split() if word.isdigit()), 0)


def hugging_face_model(num_experts: int, dropout_rate: float, expert_capacity: int) -> Any:
  """Returns Hugging Face's T5, or SwitchTransformers with every other layer sparse."""
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
    config = transformers.SwitchTransformersConfig(
      **sizes,
      num_experts=num_experts,
      num_sparse_encoder_layers=LAYERS // 2,
      num_sparse_decoder_layers=LAYERS // 2,
      expert_capacity=expert_capacity,
      router_jitter_noise=0.0,
    )
    return transformers.SwitchTransformersForConditionalGeneration(config)
  return transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes))


def hugging_face_step(
  num_experts: int, batch_size: int, dropout_rate: float
) -> Callable[[], object]:
  """Returns a program that runs one step of Hugging Face's T5 under PyTorch's AdamW."""
  import torch

  # Its capacity is that of one sequence, and the same in both stacks.
  capacity = math.ceil(1.25 * ENCODER_LENGTH / num_experts) if num_experts else 0
  model = hugging_face_model(num_experts, dropout_rate, capacity).train()
  optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
  inputs = torch.randint(2, VOCABULARY, (batch_size, ENCODER_LENGTH))
  labels = torch.randint(2, VOCABULARY, (batch_size, DECODER_LENGTH))

  def step() -> None:
    optimizer.zero_grad()
    model(input_ids=inputs, labels=labels).loss.backward()
    optimizer.step()

  return step


def hugging_face_generate(num_experts: int) -> Generate:
  """Returns a program that runs `generate`; nothing is dropped, no answer ends before the last token."""
  import torch

  model = hugging_face_model(num_experts, 0.0, ENCODER_LENGTH).eval()
  model.generation_config.eos_token_id = None

  def generate(batch_size: int, beams: int) -> object:
    inputs = torch.randint(2, VOCABULARY, (batch_size, ENCODER_LENGTH))
    with torch.inference_mode():
      return model.generate(
        inputs,
        attention_mask=torch.ones_like(inputs),
        num_beams=beams,
        do_sample=False,
        max_new_tokens=DECODER_LENGTH,
        min_new_tokens=DECODER_LENGTH,
        early_stopping="never" if beams > 1 else False,
      )

  return generate


def serve_generate(generate: Generate) -> None:
  """Runs `BATCH BEAMS` for each line of stdin; writes the seconds."""
  print("ready", flush=True)
  for line in sys.stdin:
    batch_size, beams = map(int, line.split())
    started = time.perf_counter()
    generate(batch_size, beams)
    print(json.dumps(time.perf_counter() - started), flush=True)


def serve(step: Callable[[], object]) -> None:
  """Runs a turn for each line of stdin; writes its seconds and page faults, the first after a start."""
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


def main() -> None:
  """Serves one model until stdin ends."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--worker", required=True)
  parser.add_argument("--dropout", type=float)
  parser.add_argument("--batch", type=int)
  parser.add_argument("--generate", action="store_true")
  arguments = parser.parse_args()
  if arguments.generate:
    serve_generate(hugging_face_generate(experts_of(arguments.worker)))
    return
  serve(hugging_face_step(experts_of(arguments.worker), arguments.batch, arguments.dropout))


if __name__ == "__main__":
  main()
