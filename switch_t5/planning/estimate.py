# SPDX-License-Identifier: Apache-2.0
"""A plan without a compiler: in closed form, for a search over many layouts and as a check."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

from switch_t5.layers.moe.capacity import expected_fraction_dropped, expert_capacity
from switch_t5.model.cost import forward_flops_per_sequence
from switch_t5.planning.bounds import bounds, wire_bytes
from switch_t5.planning.chips import Chip
from switch_t5.planning.memory import memory, traffic
from switch_t5.planning.plan import Collective, Flops, Place, Plan, Time, Work
from switch_t5.planning.step import (
  STACKS,
  StateArrays,
  Step,
  Sublayer,
  parameters,
  sublayers,
)
from switch_t5.planning.topology import Topology
from switch_t5.sharding.mesh import MeshShape

CHECKPOINT_BANDWIDTH = 1e9  # bytes a second of each host, to a disk or a store of objects


def estimate(step: Step, arrays: StateArrays, topology: Topology) -> Plan:
  """Returns the plan of a step in closed form.

  Args:
    step: it divides over its mesh, which is of all of the topology's devices.
    arrays: the state.
    topology: where it runs.
  """
  chip = topology.chip
  by_dtype = flops_by_dtype(step)
  flops = Flops(
    forward_flops_per_sequence(step.model, *step.lengths),
    model_flops(step),
    sum(by_dtype.values()),
    by_dtype,
  )
  needed = bounds(step, topology.slices)
  took = estimated_time(step, arrays, topology)
  checkpoint = sum(
    math.prod(leaf.shape) * leaf.itemsize for leaf in [*arrays.params, *arrays.optimizer]
  )
  hosts = math.ceil(topology.devices / chip.devices_per_host)
  return Plan(
    work=work(step),
    place=Place(
      topology.text, chip.name, topology.devices, topology.slices, dict(step.mesh._asdict())
    ),
    memory=memory(step, arrays, chip.usable_memory),
    flops=flops,
    time=took,
    collectives=(),
    bounds=needed,
    dropped=dropped(step),
    rows_per_second=step.rows / took.step,
    checkpoint_bytes=checkpoint,
    checkpoint_seconds=checkpoint / (CHECKPOINT_BANDWIDTH * hosts),
    checkpoint_bandwidth=CHECKPOINT_BANDWIDTH,
  )


def estimated_time(step: Step, arrays: StateArrays, topology: Topology) -> Time:
  """Returns the roofline in closed form; experts without capacity work through the rows they get."""
  done = flops_by_dtype(step, with_room=False)
  needed = bounds(step, topology.slices)
  return time(step, topology.chip, topology.slices, done, traffic(step, arrays), needed)


def work(step: Step) -> Work:
  """Returns what is planned, as a plan says it."""
  model = step.model
  return Work(
    step=step.kind,
    model=model.kind,
    parameters=sum(math.prod(leaf.shape) for leaf in parameters(model)),
    experts=model.num_experts,
    activation_dtype=model.activation_dtype,
    encoder_layers=model.num_encoder_layers,
    decoder_layers=model.num_decoder_layers,
    sparse_layers=model.num_encoder_sparse_layers + model.num_decoder_sparse_layers,
    rows=step.rows,
    microbatches=step.microbatches,
    encoder_length=step.lengths[0],
    decoder_length=step.lengths[1],
    parameter_sharding=step.parameter_sharding,
    remat=model.remat,
  )


def model_flops(step: Step) -> float:
  """Returns the FLOPs that the model asks for, of all rows and devices: those of Table 9."""
  forward = step.rows * forward_flops_per_sequence(step.model, *step.lengths)
  return (3 if step.trains else 1) * forward


def time(
  step: Step,
  chip: Chip,
  slices: int,
  flops: dict[str, float],
  memory_bytes: float,
  collectives: Iterable[Collective],
) -> Time:
  """Returns the roofline: what each part of a device takes alone, at its peak.

  Args:
    step: what is done.
    chip: of each device.
    slices: with a slow network between them.
    flops: of a device, by dtype.
    memory_bytes: that a device reads and writes.
    collectives: that it takes part in: a compiled program's, or `bounds`.
  """
  compute = sum(n / chip.peak[dtype] for dtype, n in flops.items())
  from_memory = memory_bytes / chip.memory_bandwidth
  sent = [network_bytes(c, step.mesh, slices) for c in collectives]
  networks = {
    "fast": sum(fast for fast, _ in sent) / chip.fast_bandwidth,
    "slow": sum(slow for _, slow in sent) / chip.slow_bandwidth,
  }
  parts = {"compute": compute, "memory": from_memory}
  parts |= {f"{name} network": seconds for name, seconds in networks.items()}
  took = max(from_memory, compute + sum(networks.values()))
  possible = took * step.mesh.num_devices * chip.peak[step.model.activation_dtype]
  return Time(
    compute=compute,
    memory=from_memory,
    networks=networks,
    step=took,
    bound=max(parts, key=lambda part: parts[part]),
    tokens_per_second=step.rows * sum(step.lengths) / took,
    model_flops_utilization=model_flops(step) / possible,
  )


def network_bytes(collective: Collective, mesh: MeshShape, slices: int) -> tuple[float, float]:
  """Returns what one device sends over the fast and over the slow network in a step.

  What crosses slices goes in two stages: within each slice, then each device's part between slices.
  Only `data` crosses, so an all-to-all over other axes never does; one that does is sent directly.
  """
  on_wires = wire_bytes(collective, mesh)
  if not collective.crosses_slices:
    return on_wires, 0.0
  sizes = mesh._asdict()
  size = collective.total
  p = math.prod(sizes[axis] for axis in collective.axes) if collective.axes else mesh.num_devices
  within, between = p // slices, (slices - 1) / slices
  if collective.kind == "all-reduce":
    return 2 * (within - 1) / within * size, 2 * between * size / within
  if collective.kind == "reduce-scatter":
    return (within - 1) / within * size, between * size / within
  if collective.kind == "all-gather":
    return (within - 1.0) * slices * size, (slices - 1.0) * size
  return on_wires * (1 - between), on_wires * between


def dropped(step: Step) -> dict[str, float]:
  """Returns the expected fraction of choices without a place, of an even router, by stack."""
  model, factor = step.model, step.capacity_factor()
  found = {}
  for stack in model.sparse_stacks:
    router = model.router(stack)
    if router.kind == "expert_choice":
      continue  # experts choose
    if factor is None:
      found[stack] = 0.0
      continue
    tokens = model.group_sequences(stack) * step.length(stack)
    places = expert_capacity(factor, tokens, model.num_experts, model.min_expert_capacity)
    choices = tokens * router.num_selected_experts
    found[stack] = expected_fraction_dropped(
      places * model.num_experts / choices, choices, model.num_experts
    )
  return found


def flops_by_dtype(step: Step, *, with_room: bool = True) -> dict[str, float]:
  """Returns the matmul FLOPs of one device, as `flops.count` finds them in the traced step.

  Of the four matmuls of attention's backward pass, the two with the gradient of the scores have a
  float32 operand.

  Args:
    step: see there.
    with_room: whether experts without capacity multiply all rows that there is room for, as XLA
      counts a ragged matmul, or those that an even router sends.
  """
  dtype, found = step.model.activation_dtype, defaultdict[str, float](float)
  passes = 3 if step.trains else 1
  again = step.trains and step.model.remat == "full"
  for stack in STACKS:
    for sublayer, layers in sublayers(step.model, stack).items():
      kernels, scores, router = _forward(step, stack, sublayer.name, with_room)
      found[dtype] += layers * kernels * (passes + again * _again(step, sublayer))
      in_float32 = scores if step.trains else 0.0
      # The scores alone, where the values' mean is not needed again.
      recomputed = {"none": 0.0, "attention": 0.5, "full": 1.0}[step.model.remat] * step.trains
      found[dtype] += layers * (scores * (passes + recomputed) - in_float32)
      found["float32"] += layers * (in_float32 + router * (passes + again))
  logits = 2.0 * step.tokens("decoder") * step.model.d_model * step.model.padded_vocab_size
  found[dtype] += passes * logits / step.mesh.model
  return {name: step.microbatches * flops for name, flops in found.items() if flops}


def _again(step: Step, sublayer: Sublayer) -> float:
  """Returns the part of a sublayer's kernels that full rematerialisation multiplies by again."""
  inputs = len(step.model.mlp_activations)
  if sublayer.name == "experts" or (sublayer.name == "feed_forward" and sublayer.is_last):
    return inputs / (inputs + 1)  # the hidden activation is needed, the output is not
  return 1.0


def _forward(step: Step, stack: str, name: str, with_room: bool) -> tuple[float, float, float]:
  """Returns a sublayer's FLOPs forward: of its kernels, of attention's scores and values, of a router."""
  model, over_model = step.model, step.mesh.model
  tokens, width = step.tokens(stack), step.model.d_model
  inner = model.num_heads * model.d_kv
  matmuls = len(model.mlp_activations) + 1
  router = 2.0 * tokens * (width + 1) * model.num_experts
  expert_rows = 0
  if name in ("experts", "expert_attention"):
    expert_rows = step.expert_rows(stack) if with_room else step.slots(stack)
  if name == "feed_forward":
    return 2.0 * matmuls * tokens * width * model.d_ff / over_model, 0.0, 0.0
  if name == "experts":
    return 2.0 * matmuls * expert_rows * width * model.expert_width / over_model, 0.0, router
  keys_of = "encoder" if name == "cross_attention" else stack
  pairs = step.device_rows * step.length(stack) * step.length(keys_of)
  scores = 4.0 * pairs * inner / over_model
  if name == "expert_attention":
    rows = 2 * expert_rows + tokens  # query; key and value; the output's kernel
    return 2.0 * rows * width * inner / over_model, scores, router
  rows = 2 * (tokens + step.tokens(keys_of))
  return 2.0 * rows * width * inner / over_model, scores, 0.0
