# SPDX-License-Identifier: Apache-2.0
"""A worker of `routers`: Hugging Face's Switch layer, and the tokens that both sides route.

Run as a file, it loads nothing of ours: `switch_t5` would set the process's memory thresholds.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable

import numpy as np

TOKENS, GROUPS, D_MODEL, D_FF, CAPACITY_FACTOR = 4096, 8, 256, 1024, 1.25
WARM_UP = 5


def router_kernel(num_experts: int) -> np.ndarray:
  """Returns W_r, float32 [d, E], with orthonormal columns."""
  square = np.random.default_rng(0).normal(size=(D_MODEL, D_MODEL))
  return np.linalg.qr(square)[0][:, :num_experts].astype(np.float32)


def even_tokens(num_experts: int, num_tokens: int) -> np.ndarray:
  """Returns float32 [tokens, d], token i nearest to expert i % E."""
  noise = np.random.default_rng(1).normal(size=(num_tokens, D_MODEL))
  preferred = router_kernel(num_experts).T[np.arange(num_tokens) % num_experts]
  return (noise + 8.0 * preferred).astype(np.float32)


def program(num_experts: int, mode: str) -> Callable[[], object]:
  """Returns a step of the layer: forward and backward, or forward of one token for each sequence."""
  import torch
  from transformers import SwitchTransformersConfig
  from transformers.models.switch_transformers.modeling_switch_transformers import (
    SwitchTransformersSparseMLP,
  )

  torch.manual_seed(0)
  config = SwitchTransformersConfig(
    d_model=D_MODEL,
    d_ff=D_FF,
    num_experts=num_experts,
    expert_capacity=math.ceil(CAPACITY_FACTOR * TOKENS / GROUPS / num_experts),
    router_jitter_noise=0.0,
    dropout_rate=0.0,
  )
  layer = SwitchTransformersSparseMLP(config).train(mode == "train")
  with torch.no_grad():
    layer.router.classifier.weight.copy_(torch.from_numpy(router_kernel(num_experts).T))
  num_tokens = TOKENS if mode == "train" else GROUPS
  x = torch.from_numpy(even_tokens(num_experts, num_tokens)).reshape(GROUPS, -1, D_MODEL)

  def train() -> None:
    layer.zero_grad()
    given = x.clone().requires_grad_()
    (layer(given) * x).sum().backward()

  def decode() -> None:
    with torch.no_grad():
      layer(x)

  return train if mode == "train" else decode


def main() -> None:
  """Runs one step for each line of stdin and writes its seconds."""
  step = program(int(sys.argv[1]), sys.argv[2])
  for _ in range(WARM_UP):
    step()
  print("ready", flush=True)
  for _ in sys.stdin:
    started = time.perf_counter()
    step()
    print(json.dumps(time.perf_counter() - started), flush=True)


if __name__ == "__main__":
  main()
