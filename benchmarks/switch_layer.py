# SPDX-License-Identifier: Apache-2.0
"""The Switch layer, forward and backward, against its bare expert matmuls and a dense layer.

  python -m benchmarks.switch_layer [--json] [--rounds=15]

4096 tokens in 8 groups, d 256, f 1024, capacity factor 1.25, float32, one device. The bare matmuls
are those of the experts on full buffers, wi, ReLU, wo and their gradients: what no dispatch can beat.
"""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.timing import interleaved, print_results
from switch_t5.layers.feed_forward import FeedForward
from switch_t5.layers.moe.capacity import expert_capacity
from switch_t5.layers.moe.experts import Experts, batched_matmul
from switch_t5.layers.moe.router import TopKRouter
from switch_t5.layers.moe.switch_layer import SwitchLayer
from switch_t5.sharding.mesh import MeshShape, make_mesh

TOKENS, GROUPS, D_MODEL, D_FF, CAPACITY_FACTOR = 4096, 8, 256, 1024, 1.25
EXPERTS = (8, 32, 64)


def switch_layer(num_experts: int, x: jax.Array):
  """Returns a program: the layer's loss gradients with respect to parameters and input."""
  rngs = nnx.Rngs(params=0)
  layer = SwitchLayer(
    TopKRouter(D_MODEL, num_experts, scale=1.0, rngs=rngs),
    Experts(num_experts, D_MODEL, D_FF, scale=1.0, rngs=rngs),
    sequences_per_group=1,
    min_expert_capacity=4,
    dtype=jnp.float32,
  )
  mask = jnp.ones((GROUPS, TOKENS // GROUPS), bool)
  graph, params = nnx.split(layer)

  def loss(params, x):
    y, report = nnx.merge(graph, params)(x, mask, capacity_factor=CAPACITY_FACTOR)
    return (y * x).sum() + report.load_balance_loss

  step = jax.jit(jax.grad(loss, argnums=(0, 1)))
  return lambda: step(params, x)


def expert_matmuls(num_experts: int):
  """Returns a program: the experts' matmuls on full buffers, with all gradients."""
  per_group = TOKENS // GROUPS
  rows = GROUPS * expert_capacity(CAPACITY_FACTOR, per_group, num_experts, 4)
  keys = jax.random.split(jax.random.key(1), 3)
  buffer = jax.random.normal(keys[0], (num_experts, rows, D_MODEL))
  wi = jax.random.normal(keys[1], (num_experts, D_MODEL, D_FF)) / D_MODEL**0.5
  wo = jax.random.normal(keys[2], (num_experts, D_FF, D_MODEL)) / D_FF**0.5

  def loss(wi, wo, buffer):
    return (batched_matmul(jax.nn.relu(batched_matmul(buffer, wi)), wo) * buffer).sum()

  step = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
  return lambda: step(wi, wo, buffer)


def dense_layer(x: jax.Array):
  """Returns a program: a dense feed-forward layer of the same width, with all gradients."""
  rngs = nnx.Rngs(params=0)
  layer = FeedForward(D_MODEL, D_FF, dropout_rate=0.0, scale=1.0, dtype=jnp.float32, rngs=rngs)
  graph, params = nnx.split(layer)
  step = jax.jit(
    jax.grad(lambda params, x: (nnx.merge(graph, params)(x, GROUPS) * x).sum(), argnums=(0, 1))
  )
  return lambda: step(params, x)


def measure(rounds: int) -> dict[str, float]:
  """Returns the ratios, all taken in this process."""
  x = jax.random.normal(jax.random.key(0), (TOKENS, D_MODEL))
  ratios: dict[str, float] = {}
  with jax.set_mesh(make_mesh(MeshShape())):
    for num_experts in EXPERTS:
      programs = {
        "layer": switch_layer(num_experts, x),
        "matmuls": expert_matmuls(num_experts),
        "dense": dense_layer(x),
      }
      seconds = interleaved(programs, rounds)
      ratios[f"layer/matmuls at {num_experts} experts"] = seconds["layer"] / seconds["matmuls"]
      ratios[f"layer/dense at {num_experts} experts"] = seconds["layer"] / seconds["dense"]
      ratios[f"dense ms at {num_experts} experts"] = seconds["dense"] * 1e3
  return ratios


def main() -> None:
  """Prints the ratios."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--json", action="store_true")
  parser.add_argument("--rounds", type=int, default=15)
  arguments = parser.parse_args()
  print_results(measure(arguments.rounds), arguments.json)


if __name__ == "__main__":
  main()
