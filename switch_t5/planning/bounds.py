# SPDX-License-Identifier: Apache-2.0
"""What a layout needs to send: the paper's section 5 in bytes, for the layers as they are here.

It is the least of this design. What XLA adds to it shows when a compiled program is held against it.
A sum over devices of gradients is counted in the type in which the program adds them up: kernels' in
the activations', those of norms, routers and position biases in float32.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from switch_t5.planning.plan import Collective
from switch_t5.planning.step import STACKS, Leaf, Step, Sublayer, parameters, sublayers
from switch_t5.sharding.mesh import DATA, EXPERT, MODEL, MeshShape
from switch_t5.sharding.rules import RULES

_FLOAT32 = 4


class _Part(NamedTuple):
  """A collective of one sublayer."""

  kind: str
  axis: str
  bytes: int
  what: str


def bounds(step: Step, slices: int = 1) -> tuple[Collective, ...]:
  """Returns the collectives that a step needs, without those of a few numbers.

  Of "infer" it is the encoder, and the decoder at each position of the longest answer.

  Args:
    step: see there; it divides over its mesh.
    slices: groups of devices with a slow network between them, which only `data` crosses.
  """
  found = [c for stack in STACKS for c in _of_stack(step, stack)]
  if step.parameter_sharding == "fsdp":
    found += _gathers(step)
  if step.trains:
    found += _gradients(step)
  sizes = step.mesh._asdict()
  times: Counter[Collective] = Counter()
  for c in found:
    axes = tuple(axis for axis in c.axes if sizes[axis] > 1)
    crosses = slices > 1 and DATA in axes
    if axes and c.bytes:
      times[dataclasses.replace(c, axes=axes, crosses_slices=crosses, times=1)] += c.times
  return tuple(dataclasses.replace(c, times=n) for c, n in times.items())


def wire_bytes(collective: Collective, mesh: MeshShape) -> float:
  """Returns what one device sends for it in a step, over a ring or directly.

  Of p devices an all-reduce sends 2 (p - 1) / p of its operand, an all-gather p - 1 times its own
  part, all others (p - 1) / p. Where the axes are not known p is all devices.
  """
  sizes = mesh._asdict()
  p = math.prod(sizes[axis] for axis in collective.axes or sizes)
  factors = {"all-reduce": 2 * (p - 1) / p, "all-gather": p - 1.0, "collective-permute": 1.0}
  return collective.total * factors.get(collective.kind, (p - 1) / p)


def least(step: Step) -> dict[str, float]:
  """Returns the bytes that one device must send in a step, whatever the program: balanced, no padding.

  Returns:
    By what is sent: "tokens", to k experts and back through all sparse layers, over expert (and over
    model to each of the experts' parts); "gradients", of all parameters once.
  """
  devices, itemsize = step.mesh, step.model.dtype.dtype.itemsize
  tokens = 0.0
  for stack in STACKS:
    layers = sum(n for s, n in sublayers(step.model, stack).items() if s.name == "experts")
    width = step.microbatches * step.tokens(stack) * step.model.d_model * itemsize
    visited = step.model.router(stack).experts_visited
    over_expert = 2 * visited * _share(devices.expert) * width / devices.model
    # To all parts of the expert, their sums, and the output to all of them again.
    over_model = (2 * visited + 1) * _share(devices.model) * width
    tokens += layers * (2 if step.trains else 1) * (over_expert + over_model)
  if not step.trains:
    return {"tokens": tokens}
  gradients = 0.0
  for leaf in parameters(step.model):
    over = devices.data if "expert" in leaf.axes else devices.batch_shards
    gradients += 2 * _share(over) * leaf.numbers(devices) * _gradient_itemsize(leaf, step)
  return {"tokens": tokens, "gradients": gradients}


def _share(devices: int) -> float:
  return (devices - 1) / devices


def _of_stack(step: Step, stack: str) -> Iterator[Collective]:
  """Yields what the layers of a stack, its embedding and the logits send."""
  decodes = stack == "decoder" and not step.trains
  positions = step.length(stack) if decodes else 1
  phases = ("forward", "backward") if step.trains else ("forward",)
  times = step.microbatches * positions
  for sublayer, layers in sublayers(step.model, stack).items():
    for phase in phases:
      for part in _of_sublayer(step, stack, sublayer, phase):
        size = part.bytes // positions
        yield Collective(
          part.kind, (part.axis,), phase, stack, layers * times, size, what=part.what
        )
  # A table split over the vocabulary: each row is found on one of the devices.
  row = step.model.d_model * step.model.dtype.dtype.itemsize
  embedded = step.tokens(stack) // positions * row
  yield Collective(
    "all-reduce", (MODEL,), "forward", stack, times, embedded, what="embedded tokens"
  )
  if stack == "decoder" and step.trains:
    size = step.tokens(stack) * row
    what = "gradient of the logits' input"
    yield Collective("all-reduce", (MODEL,), "backward", "", times, size, what=what)


def _of_sublayer(step: Step, stack: str, sublayer: Sublayer, phase: str) -> list[_Part]:
  tokens = step.tokens(stack) * step.model.d_model * step.model.dtype.dtype.itemsize
  summed = _Part("all-reduce", MODEL, tokens, "outputs of a sublayer")
  again = phase == "backward" and step.model.remat == "full" and not sublayer.is_last
  if sublayer.name in ("experts", "expert_attention"):
    parts = _of_switch_layer(step, stack, attention=sublayer.name == "expert_attention")
    if phase == "forward":
      return parts
    gates = step.tokens(stack) * step.model.router(stack).num_selected_experts * _FLOAT32
    back = [part._replace(what=f"gradients: {part.what}") for part in parts]
    back.append(_Part("all-reduce", MODEL, gates, "gradient of the gates"))
    output = [part for part in parts if part.what == "outputs of a Switch layer"]
    return back + output * again
  if phase == "forward":
    return [summed]
  parts = [summed._replace(what="gradient of a sublayer's input")]
  if sublayer.name == "cross_attention":
    encoded = step.tokens("encoder") * step.model.d_model * step.model.dtype.dtype.itemsize
    parts.append(_Part("all-reduce", MODEL, encoded, "gradient of the encoder's output"))
  return parts + [summed._replace(what="outputs, computed again")] * again


def _of_switch_layer(step: Step, stack: str, *, attention: bool) -> list[_Part]:
  """Returns what a Switch layer sends; backward the transposes are as many, and as large."""
  model, over_model = step.model, step.mesh.model
  width = model.d_model * model.dtype.dtype.itemsize
  width_back = width
  if attention:
    width_back = 2 * model.num_heads * model.d_kv * model.dtype.dtype.itemsize
  slots, rows = step.slots(stack), step.expert_rows(stack)
  dropless = step.capacity_factor() is None
  kind = "ragged-all-to-all" if dropless else "all-to-all"
  parts = [
    _Part(kind, EXPERT, slots * width // over_model, "tokens to their experts"),
    _Part(kind, EXPERT, slots * width_back // over_model, "tokens back"),
    _Part("all-gather", MODEL, rows * width // over_model, "experts' inputs"),
  ]
  if attention:  # the output's columns stay where their heads are
    return parts
  tokens = step.tokens(stack) * width
  return [
    *parts,
    _Part("reduce-scatter", MODEL, rows * width, "experts' outputs"),
    _Part("all-gather", MODEL, tokens // over_model, "outputs of a Switch layer"),
  ]


def _gradient_itemsize(leaf: Leaf, step: Step) -> int:
  """Returns the bytes of the type in which a parameter's gradients are added up."""
  own_axes = [name for name in leaf.axes if name not in ("layers", "expert")]
  in_float32 = len(own_axes) < 2 or {"router_experts", "relpos_buckets"} & set(own_axes)
  return _FLOAT32 if in_float32 else step.model.dtype.dtype.itemsize


def _by_layer(step: Step) -> Iterator[tuple[tuple[str, int, bool], int]]:
  """Yields of each parameter (stack or "", layers, of experts), and its bytes in a layer and device."""
  for leaf in parameters(step.model):
    layers = leaf.shape[0] if leaf.axes[0] == "layers" else 1
    stack = leaf.path.partition("/")[0]
    where = stack if stack in STACKS and layers > 1 else ""
    size = leaf.numbers(step.mesh, RULES) // layers * _gradient_itemsize(leaf, step)
    yield (where, layers, "expert" in leaf.axes), size


def _summed(step: Step) -> dict[tuple[str, int, bool], int]:
  found: dict[tuple[str, int, bool], int] = defaultdict(int)
  for key, size in _by_layer(step):
    found[key] += size
  return found


def _gathers(step: Step) -> Iterator[Collective]:
  """Yields the gathers of parameters that are split over data, each before it is used."""
  phases = ["forward"] + ["backward"] * (step.trains and step.model.remat == "full")
  for (where, layers, of_experts), size in _summed(step).items():
    for phase in phases if layers > 1 else phases[:1]:
      what = "parameters of experts" if of_experts else "parameters"
      times = layers * step.microbatches
      yield Collective(
        "all-gather", (DATA,), phase, where, times, size // step.mesh.data, what=what
      )


def _gradients(step: Step) -> Iterator[Collective]:
  """Yields the sums of gradients; where parameters are split over data each device gets its part."""
  for (where, layers, of_experts), size in _summed(step).items():
    what = "gradients of experts" if of_experts else "gradients"
    times = layers * step.microbatches
    others = () if of_experts else (EXPERT,)
    if step.parameter_sharding == "fsdp":
      yield Collective("reduce-scatter", (DATA,), "backward", where, times, size, what=what)
      part = size // step.mesh.data
      yield Collective("all-reduce", others, "backward", where, times, part, what=what)
    else:
      yield Collective("all-reduce", (DATA, *others), "backward", where, times, size, what=what)
