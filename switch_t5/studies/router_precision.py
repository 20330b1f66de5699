# SPDX-License-Identifier: Apache-2.0
"""What would break if the router computed in bfloat16: choices that flip, places that two tokens get.

Measured on the inputs that the routers of a trained model really see; the model itself has no such router.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from switch_t5.layers.masks import segment_mask
from switch_t5.layers.moe.router import ScoringRouter
from switch_t5.layers.moe.switch_layer import SwitchLayer
from switch_t5.model.blocks import EncoderLayer, StackInputs, add_sublayer
from switch_t5.model.switch_transformer import SwitchTransformer
from switch_t5.sharding.annotate import batch_shards
from switch_t5.types import Array, DType


class RouterInputs(NamedTuple):
  """What a router of the encoder reads.

  Attributes:
    inputs: [tokens, d], real tokens.
    kernel: W_r, float32 [d, E].
  """

  inputs: np.ndarray
  kernel: np.ndarray


class Broken(NamedTuple):
  """What becomes of choices and places.

  Attributes:
    tokens: how many were routed, over all routers.
    flips_float32: whose expert is not that of float64, where logits and softmax are float32.
    flips_bfloat16: the same with inputs, W_r, logits and softmax in bfloat16.
    colliding: by tokens per group, those whose place in their expert, counted in bfloat16, another
      token has too.
    routed: by tokens per group, how many tokens were in whole groups.
  """

  tokens: int
  flips_float32: int
  flips_bfloat16: int
  colliding: dict[int, int]
  routed: dict[int, int]


def router_inputs(
  model: SwitchTransformer, tokens: Array, segment_ids: Array, capacity_factor: float | None
) -> list[tuple[Array, Array]]:
  """Returns what each router of the encoder reads, [B * S, d], and its W_r. Needs a mesh.

  Args:
    model: with a top-k router in its sparse feed-forward layers.
    tokens: int32 [B, S].
    segment_ids: int32 [B, S], 0 on padding.
    capacity_factor: of the sparse layers.
  """
  x, rows, found = model.embed(tokens), tokens.shape[0], []
  bias = model.encoder.relpos_bias(tokens.shape[1], batch_shards())
  mask = segment_mask(segment_ids, segment_ids)
  inputs = StackInputs(tokens, segment_ids > 0, mask, bias)
  for layer in model.encoder.layers():
    assert isinstance(layer, EncoderLayer)
    if isinstance(layer.mlp, SwitchLayer):
      assert isinstance(layer.mlp.router, ScoringRouter)
      normed = layer.pre_attention_layer_norm(x)
      y, _ = layer.attend_to_itself(layer.attention, normed, inputs, capacity_factor, None)
      attended = add_sublayer(x, y, 0.0, None, rows)
      found.append((layer.pre_mlp_layer_norm(attended), layer.mlp.router.kernel))
    x, _ = layer(x, inputs, capacity_factor, None)
  return found


def measure(routers: Sequence[RouterInputs], groups: Sequence[int]) -> Broken:
  """Returns what breaks.

  Args:
    routers: at least one.
    groups: tokens per group, ascending; those larger than all tokens of a router are left out.
  """
  tokens, flips = 0, np.zeros(2, int)
  colliding, routed = dict.fromkeys(groups, 0), dict.fromkeys(groups, 0)
  for inputs, kernel in routers:
    exact = (inputs.astype(np.float64) @ kernel.astype(np.float64)).argmax(axis=-1)
    tokens += len(exact)
    for index, dtype in enumerate((jnp.float32, jnp.bfloat16)):
      flips[index] += int((choices(inputs, kernel, dtype) != exact).sum())
    for group in groups:
      whole = len(exact) // group * group
      parts = exact[:whole].reshape(-1, group)
      colliding[group] += sum(collisions(part, kernel.shape[1]) for part in parts)
      routed[group] += whole
  there = [group for group in groups if routed[group]]
  return Broken(
    tokens,
    int(flips[0]),
    int(flips[1]),
    {group: colliding[group] for group in there},
    {group: routed[group] for group in there},
  )


def choices(inputs: np.ndarray, kernel: np.ndarray, dtype: DType) -> np.ndarray:
  """Returns the argmax of the softmax, int [tokens], everything in `dtype`; of equal ones the first."""
  logits = (jnp.asarray(inputs, dtype) @ jnp.asarray(kernel, dtype)).astype(dtype)
  shifted = logits - logits.max(axis=-1, keepdims=True)
  exponentials = jnp.exp(shifted)
  probabilities = exponentials / exponentials.sum(axis=-1, keepdims=True).astype(dtype)
  return np.asarray(probabilities.argmax(axis=-1))


def collisions(choice: np.ndarray, num_experts: int) -> int:
  """Returns how many tokens of a group share a place, where places are rounded to bfloat16.

  The rounding is that of the exact count, which no sum in bfloat16 improves on.
  """
  shared = 0
  for expert in range(num_experts):
    places = np.asarray(jnp.arange((choice == expert).sum(), dtype=jnp.int32).astype(jnp.bfloat16))
    _, counts = np.unique(places.astype(np.float32), return_counts=True)
    shared += int(counts[counts > 1].sum())
  return shared
