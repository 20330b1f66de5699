# SPDX-License-Identifier: Apache-2.0
"""What a training step takes of one device's memory, in closed form.

It counts what the forward pass of each sublayer leaves for the backward pass, as JAX's transposition
leaves it, and the most that is needed beside it. Masks of dropout are not counted.
"""

from __future__ import annotations

import math
from collections import Counter

from switch_t5.batch import batch_spec
from switch_t5.planning.plan import Memory
from switch_t5.planning.step import (
  STACKS,
  StateArrays,
  Step,
  Sublayer,
  device_bytes,
  parameters,
  sublayers,
)

_FLOAT32 = 4
# A gated layer keeps what GELU's derivative needs too.
_KEPT_IF_GATED = 7


def memory(step: Step, arrays: StateArrays, limit: int) -> Memory:
  """Returns the estimate for a step.

  Args:
    step: see there.
    arrays: the state.
    limit: bytes that a program may take.
  """
  kinds = {
    "parameters": device_bytes(arrays.params, step),
    "optimizer": device_bytes(arrays.optimizer, step),
    "batch": _batch(step),
  }
  if step.trains:
    # What is accumulated, and a microbatch's own.
    kinds["gradients"] = kinds["parameters"] * (1 if step.microbatches == 1 else 2)
    kinds["activations"] = activations(step)
  kinds["temporaries"] = _temporaries(step)
  return Memory(limit, sum(kinds.values()), kinds, exact=False)


def activations(step: Step) -> int:
  """Returns the bytes that are kept for the backward pass of a microbatch."""
  total = 0
  for stack in STACKS:
    for sublayer, layers in sublayers(step.model, stack).items():
      total += layers * _kept(step, stack, sublayer)
  if step.model.remat != "full":
    return total + _kernels(step)
  residual = step.model.d_model * step.model.dtype.dtype.itemsize
  for stack in STACKS:
    blocks = sum(repeats for _, repeats in step.model.stack_layout(stack))
    total += blocks * step.tokens(stack) * residual
  return total


def traffic(step: Step, arrays: StateArrays) -> float:
  """Returns about how many bytes a device reads and writes in a step; it may well be twice as many.

  Kernels are cast, read in each pass, and their gradients written and added up. What layers make is
  written and read in both passes, about six times, and what is kept is copied once more: on an H100
  T5-Base takes 192 ms a step, 172 where all is computed again. The optimizer reads and writes the state.
  """
  kernels = sum(leaf.numbers(step.mesh) for leaf in parameters(step.model))
  itemsize = step.model.dtype.dtype.itemsize
  made = activations(step.laid_out(remat="none"))
  if not step.trains:
    positions = step.length("decoder")  # the decoder's kernels, about half, at each
    return kernels * itemsize * (1 + positions / 2) + 3.0 * made
  passes = 4 if step.model.remat == "full" else 3
  of_kernels = kernels * (3 * _FLOAT32 + (passes + 2) * itemsize)
  of_activations = 6 * made + activations(step) + 4 * _logits(step)
  state = device_bytes(arrays.params, step) + device_bytes(arrays.optimizer, step)
  return float(step.microbatches * (of_kernels + of_activations) + 2 * state)


def _batch(step: Step) -> int:
  spec = batch_spec((step.rows,), *step.lengths)
  numbers = sum(math.prod(s.shape) * s.dtype.itemsize for s in spec.values())
  return numbers // step.mesh.batch_shards


def _logits(step: Step) -> int:
  """Returns the bytes of the logits, float32 [T, V / m]."""
  columns = step.model.padded_vocab_size // step.mesh.model
  tokens = step.tokens("decoder") if step.trains else step.device_rows
  return tokens * columns * _FLOAT32


def _kernels(step: Step) -> int:
  """Returns the bytes of the layers' kernels in the activations' type, as they are used."""
  itemsize = step.model.dtype.dtype.itemsize
  if itemsize == _FLOAT32 and step.parameter_sharding == "replicated":
    return 0  # they are the parameters themselves
  return sum(
    leaf.numbers(step.mesh) * itemsize
    for leaf in parameters(step.model)
    if "layers" in leaf.axes and len(leaf.axes) > 2
  )


def _kernels_of_a_block(step: Step) -> int:
  """Returns the bytes of the largest block's kernels in the activations' type, whole along data."""
  itemsize = step.model.dtype.dtype.itemsize
  by_run: Counter[str] = Counter()
  for leaf in parameters(step.model):
    if "layers" in leaf.axes:
      run = "/".join(leaf.path.split("/")[:2])
      by_run[run] += leaf.numbers(step.mesh) // leaf.shape[0] * itemsize
  return max(by_run.values())


def _kept(step: Step, stack: str, sublayer: Sublayer) -> int:
  """Returns the bytes that one sublayer keeps."""
  model, over_model = step.model, step.mesh.model
  itemsize, tokens = model.dtype.dtype.itemsize, step.tokens(stack)
  is_sparse = sublayer.name in ("experts", "expert_attention")
  if model.remat == "full":
    if not is_sparse:
      return 0
    # What went through the all-to-alls: the experts' inputs, whole, and their outputs.
    rows = step.expert_rows(stack) + step.slots(stack) // over_model
    return rows * model.d_model * itemsize
  width = tokens * model.d_model
  normed = 2 * width * _FLOAT32  # of the norm, which is float32 inside
  kept = normed if is_sparse else normed + width * itemsize
  if is_sparse:
    # The router's input and noise, what tokens get back before their gates, scores of all experts.
    visits = model.router(stack).num_selected_experts
    kept += (2 + visits) * width * _FLOAT32 + 2 * tokens * model.num_experts * _FLOAT32
    kept += step.expert_rows(stack) * model.d_model * itemsize
  if sublayer.name.endswith("attention"):
    return kept + _kept_of_attention(step, stack, sublayer)
  columns = (model.expert_width if is_sparse else model.d_ff) // over_model
  rows = step.expert_rows(stack) if is_sparse else tokens
  gated = len(model.mlp_activations) > 1
  return kept + rows * columns * (_KEPT_IF_GATED * itemsize if gated else itemsize + 1)


def _kept_of_attention(step: Step, stack: str, sublayer: Sublayer) -> int:
  model, itemsize = step.model, step.model.dtype.dtype.itemsize
  keys_of = "encoder" if sublayer.name == "cross_attention" else stack
  inner = model.num_heads * model.d_kv // step.mesh.model
  # Queries and outputs; keys and values.
  kept = 2 * (step.tokens(stack) + step.tokens(keys_of)) * inner * itemsize
  return kept if model.remat == "attention" else kept + _probabilities(step, stack, keys_of)


def _probabilities(step: Step, stack: str, keys_of: str) -> int:
  """Returns the bytes of attention's probabilities: as softmax keeps them, and in their own type."""
  itemsize = step.model.dtype.dtype.itemsize
  pairs = step.device_rows * step.length(stack) * step.length(keys_of)
  heads = step.model.num_heads // step.mesh.model
  return pairs * heads * (_FLOAT32 + itemsize)


def _temporaries(step: Step) -> int:
  """Returns the most that is needed beside what is kept: of the logits, or of one layer's backward."""
  if not step.trains:
    return _cache(step) + 2 * _logits(step) + _largest_layer(step)
  again = _largest_layer(step) if step.model.remat == "full" else 0
  again += 2 * _kernels_of_a_block(step)  # as they are used, and their gradients
  workspace = 2 * step.device_rows * step.length("encoder") ** 2 * _FLOAT32
  workspace *= step.model.num_heads // step.mesh.model
  return max(_logits(step) * 5 // 4, again + workspace)


def _largest_layer(step: Step) -> int:
  """Returns what the largest block keeps where nothing is computed again."""
  whole = step.laid_out(remat="none")
  largest = 0
  for stack in STACKS:
    for pattern, _ in whole.model.stack_layout(stack):
      names = ["self_attention", "feed_forward"] + ["cross_attention"] * (stack == "decoder")
      dense = sum(_kept(whole, stack, Sublayer(name, False)) for name in names)
      sparse = _kept(whole, stack, Sublayer("experts", False)) if any(pattern) else 0
      largest = max(largest, len(pattern) * dense + sparse * sum(pattern))
  return largest


def _cache(step: Step) -> int:
  """Returns the bytes of the decoder's keys and values, of the past and of the encoder's output."""
  inner = step.model.num_heads * step.model.d_kv // step.mesh.model
  positions = sum(step.lengths)
  rows = 2 * step.model.num_decoder_layers * step.device_rows * positions
  return rows * inner * step.model.dtype.dtype.itemsize
