# SPDX-License-Identifier: Apache-2.0
"""What each router costs: a layer's forward and backward beside top-1 with capacity.

  python -m benchmarks.routers [--json] [--rounds=9] [--torch_python=/path/to/python]

4096 tokens in 8 groups, d 256, f 1024, float32, one device; top-1 with capacity factor 1.25 is the
measure. Tokens lie so that the load is even: token i prefers expert i % E. Noise is drawn where the
router draws some. `--torch_python` names an interpreter with torch and transformers: Hugging
Face's layer, which loops over experts and drops by sequence, then takes its turns too.

Decoding is one token of 8 sequences, forward only, each to an expert of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks import torch_layer
from benchmarks.timing import interleaved, print_results
from benchmarks.torch_layer import CAPACITY_FACTOR, D_FF, D_MODEL, GROUPS, TOKENS
from switch_t5.layers.feed_forward import FeedForward
from switch_t5.layers.moe.experts import AttentionExperts, Experts
from switch_t5.layers.moe.switch_layer import SwitchLayer
from switch_t5.layers.row_key import RowKey
from switch_t5.model.router_config import RouterConfig
from switch_t5.sharding.mesh import MeshShape, make_mesh

EXPERTS = (8, 64)
DECODING_EXPERTS = (8, 32, 128)
BASE = "top-1"


class Variant(NamedTuple):
  """A way to route.

  Attributes:
    router: its configuration; without noise unless it says so.
    factor: the capacity factor; None for dropless.
    fine: experts are half as wide and twice as many.
    shared: one expert sees every token.
    attention: experts are projections of attention, not feed-forward layers.
  """

  router: RouterConfig
  factor: float | None = CAPACITY_FACTOR
  fine: bool = False
  shared: bool = False
  attention: bool = False


def quiet(**options) -> RouterConfig:
  """Returns a top-k router without noise."""
  return RouterConfig(exploration="argmax", **options)


VARIANTS = {
  BASE: Variant(quiet()),
  "dropless": Variant(quiet(), None),
  "top-2": Variant(quiet(num_selected_experts=2), 2 * CAPACITY_FACTOR),
  "top-2 renormalised, second by chance": Variant(
    quiet(num_selected_experts=2, renormalize_gates=True, second_expert_policy="random"),
    2 * CAPACITY_FACTOR,
  ),
  "top-2 dropless": Variant(quiet(num_selected_experts=2), None),
  "sigmoid": Variant(quiet(scores="sigmoid")),
  "expert choice, 1.25 experts a token": Variant(
    RouterConfig(kind="expert_choice", exploration="argmax", experts_per_token=CAPACITY_FACTOR)
  ),
  "hash": Variant(RouterConfig(kind="hash")),
  "random": Variant(RouterConfig(kind="random")),
  "jitter": Variant(RouterConfig()),
  "input dropout": Variant(RouterConfig(exploration="input_dropout")),
  "sample": Variant(RouterConfig(exploration="sample")),
  "batch-prioritised": Variant(quiet(batch_prioritized=True)),
  "no token left behind": Variant(quiet(no_token_left_behind=4)),
  "bias": Variant(quiet(bias_update_rate=1e-3)),
  "global balance": Variant(quiet(balance_scope="global")),
  "fine-grained, top-2": Variant(quiet(num_selected_experts=2), 2 * CAPACITY_FACTOR, fine=True),
  "shared expert": Variant(quiet(), shared=True),
  "attention": Variant(quiet(), attention=True),
}


def make_layer(variant: Variant, num_experts: int) -> SwitchLayer:
  """Makes the layer, its router's weights orthogonal columns."""
  rngs = nnx.Rngs(params=0)
  num_experts, d_ff = (2 * num_experts, D_FF // 2) if variant.fine else (num_experts, D_FF)
  if variant.attention:
    experts = AttentionExperts(num_experts, D_MODEL, 4, D_MODEL // 4, scale=1.0, rngs=rngs)
  else:
    experts = Experts(num_experts, D_MODEL, d_ff, scale=1.0, rngs=rngs)
  layer = SwitchLayer(
    variant.router.make(D_MODEL, num_experts, scale=1.0, rngs=rngs),
    experts,
    sequences_per_group=1,
    min_expert_capacity=4,
    balance_scope=variant.router.balance_scope,
    dtype=jnp.float32,
  )
  if variant.router.kind in ("top_k", "expert_choice"):
    layer.router.router_weights.w.kernel[...] = jnp.asarray(torch_layer.router_kernel(num_experts))
  return layer


def train_program(variant: Variant, num_experts: int) -> Callable[[], object]:
  """Returns a program: gradients with respect to parameters and input."""
  layer = make_layer(variant, num_experts)
  x = jnp.asarray(torch_layer.even_tokens(layer.router.num_experts, TOKENS))
  mask = jnp.ones((GROUPS, TOKENS // GROUPS), bool)
  ids = jnp.arange(TOKENS, dtype=jnp.int32).reshape(mask.shape)
  shared = FeedForward(
    D_MODEL, D_FF, dropout_rate=0.0, scale=1.0, dtype=jnp.float32, rngs=nnx.Rngs(params=1)
  )
  graph, params = nnx.split((layer, shared if variant.shared else None))

  def loss(params, x, key):
    layer, shared = nnx.merge(graph, params)
    y, report = layer(x, mask, capacity_factor=variant.factor, token_ids=ids, key=key)
    total = sum((part * x).sum() for part in jax.tree.leaves(y)) + report.load_balance_loss
    return total + ((shared(x, GROUPS) * x).sum() if variant.shared else 0.0)

  step = jax.jit(jax.grad(loss, argnums=(0, 1)))
  key = RowKey(jax.random.key(0))
  return lambda: step(params, x, key)


def decode_program(num_experts: int, factor: float | None) -> Callable[[], object]:
  """Returns a program: one token of 8 sequences, forward."""
  layer = make_layer(VARIANTS[BASE], num_experts)
  x = jnp.asarray(torch_layer.even_tokens(num_experts, GROUPS))
  graph, params = nnx.split(layer)
  mask = jnp.ones((GROUPS, 1), bool)
  step = jax.jit(lambda params, x: nnx.merge(graph, params)(x, mask, capacity_factor=factor)[0])
  return lambda: [step(params, x) for _ in range(20)]


class HuggingFaceLayer:
  """Hugging Face's layer in a process of its own."""

  def __init__(self, python: str, num_experts: int, mode: str):
    self.worker = subprocess.Popen(
      [python, torch_layer.__file__, str(num_experts), mode],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env=dict(os.environ),
    )
    assert self.worker.stdout is not None
    if self.worker.stdout.readline() != "ready\n":
      raise SystemExit("The worker of Hugging Face's layer ended; its message is above.")
    self.turns: list[float] = []

  def __call__(self) -> None:
    """Takes a turn."""
    assert self.worker.stdin is not None and self.worker.stdout is not None
    self.worker.stdin.write("go\n")
    self.worker.stdin.flush()
    self.turns.append(json.loads(self.worker.stdout.readline()))

  def seconds(self) -> float:
    """Ends the process; returns its median seconds."""
    self.worker.communicate()
    return statistics.median(self.turns)


def measure_training(num_experts: int, rounds: int, names, python: str | None) -> dict[str, float]:
  """Returns each variant's time over the base's, and the base's over Hugging Face's."""
  programs = {name: train_program(VARIANTS[name], num_experts) for name in names}
  theirs = HuggingFaceLayer(python, num_experts, "train") if python else None
  seconds = interleaved(programs | ({"theirs": theirs} if theirs else {}), rounds)
  at = f"at {num_experts} experts"
  results = {f"{name} / {BASE} {at}": seconds[name] / seconds[BASE] for name in names}
  if theirs:
    their_seconds = theirs.seconds()
    for name in (BASE, "dropless"):
      results[f"{name} / Hugging Face's {at}"] = seconds[name] / their_seconds
  return results | {f"{BASE} ms {at}": seconds[BASE] * 1e3}


def measure_decoding(rounds: int, python: str | None) -> dict[str, float]:
  """Returns the time of a decoding step over that with the fewest experts, and over Hugging Face's."""
  programs = {str(n): decode_program(n, None) for n in DECODING_EXPERTS}
  theirs = {n: HuggingFaceLayer(python, n, "decode") for n in DECODING_EXPERTS} if python else {}
  seconds = interleaved(programs | {f"theirs {n}": layer for n, layer in theirs.items()}, rounds)
  least = seconds[str(DECODING_EXPERTS[0])]
  results = {
    f"decoding, {n} experts / {DECODING_EXPERTS[0]}": seconds[str(n)] / least
    for n in DECODING_EXPERTS
  }
  for n, layer in theirs.items():
    results[f"decoding, {n} experts / Hugging Face's"] = seconds[str(n)] / 20 / layer.seconds()
  return results | {"decoding ms": least / 20 * 1e3}


def main() -> None:
  """Prints the ratios."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--json", action="store_true")
  parser.add_argument("--rounds", type=int, default=9)
  parser.add_argument("--torch_python", help="an interpreter with torch and transformers")
  parser.add_argument("--experts", default=",".join(map(str, EXPERTS)))
  parser.add_argument("--variants", default="all", help=f"of: {'; '.join(VARIANTS)}")
  arguments = parser.parse_args()
  names = list(VARIANTS) if arguments.variants == "all" else arguments.variants.split(";")
  results: dict[str, float] = {}
  with jax.set_mesh(make_mesh(MeshShape())):
    for num_experts in map(int, arguments.experts.split(",")):
      wanted = list(dict.fromkeys([BASE, "dropless", *names]))
      results |= measure_training(num_experts, arguments.rounds, wanted, arguments.torch_python)
    results |= measure_decoding(arguments.rounds, arguments.torch_python)
  print_results(results, arguments.json)


if __name__ == "__main__":
  main()
