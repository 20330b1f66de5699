# SPDX-License-Identifier: Apache-2.0
"""A worker of `decode`: Hugging Face's `generate`, and what all workers share.

Run as a file, it loads nothing of ours: `switch_t5` would set the process's memory thresholds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable

VOCABULARY, D_MODEL, D_FF, D_KV, HEADS, LAYERS = 8192, 256, 1024, 64, 4, 4
ENCODER_LENGTH, DECODER_LENGTH = 256, 64

Generate = Callable[[int, int], object]  # of a batch size and a number of beams


def experts_of(name: str) -> int:
  """Returns the number of experts that a name of `MODELS` says, 0 for a dense model."""
  return next((int(word) for word in name.split() if word.isdigit()), 0)


def hugging_face_generate(num_experts: int) -> Generate:
  """Returns a program that runs Hugging Face's `generate`; no answer ends before the last token."""
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
    "decoder_start_token_id": 0,
  }
  if num_experts:
    config = transformers.SwitchTransformersConfig(
      **sizes,
      num_experts=num_experts,
      num_sparse_encoder_layers=LAYERS // 2,
      num_sparse_decoder_layers=LAYERS // 2,
      expert_capacity=ENCODER_LENGTH,  # nothing is dropped, as with ours
    )
    model = transformers.SwitchTransformersForConditionalGeneration(config).eval()
  else:
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes)).eval()
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


def serve(generate: Generate) -> None:
  """Runs `BATCH BEAMS` for each line of stdin; writes the seconds."""
  print("ready", flush=True)
  for line in sys.stdin:
    batch_size, beams = map(int, line.split())
    started = time.perf_counter()
    generate(batch_size, beams)
    print(json.dumps(time.perf_counter() - started), flush=True)


def main() -> None:
  """Serves one model until stdin ends."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--worker", required=True)
  serve(hugging_face_generate(experts_of(parser.parse_args().worker)))


if __name__ == "__main__":
  main()
