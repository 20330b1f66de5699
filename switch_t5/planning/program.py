# SPDX-License-Identifier: Apache-2.0
"""What a compiled step does between devices and with memory, read from what XLA says of it."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from switch_t5.planning import hlo
from switch_t5.planning.plan import Collective, Memory
from switch_t5.sharding.mesh import slice_of

KINDS = (
  "all-to-all",
  "all-gather",
  "reduce-scatter",
  "all-reduce",
  "collective-permute",
  "ragged-all-to-all",
)
_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_STACK = re.compile(r"[/(](encoder|decoder)(?=[)/])")
# XLA for TPU spreads a collective over several fusions; those after the first repeat it.
_GOES_ON, _ENDS = "async_collective_fusion", "AsyncCollectiveDone"


class Groups(NamedTuple):
  """Which devices talk to each other: positions in the mesh, [groups, devices of a group]."""

  members: np.ndarray

  def axes(self, mesh: Mesh) -> tuple[str, ...]:
    """Returns the axes over which each group goes, whole or within a slice; () if there are no such."""
    shape = tuple(mesh.shape.values())
    within = np.argwhere(_slices(mesh).reshape(shape) == 0)  # [devices of the first slice, axes]
    axes = []
    for axis, coordinates in enumerate(np.unravel_index(self.members, shape)):
      widths = {len(set(group)) for group in coordinates.tolist()}
      if widths == {1}:
        continue
      if not widths <= {shape[axis], len(set(within[:, axis].tolist()))} or len(widths) > 1:
        return ()
      axes.append((mesh.axis_names[axis], widths.pop()))
    whole = math.prod(width for _, width in axes) == self.members.shape[1]
    return tuple(name for name, _ in axes) if whole else ()

  def cross_slices(self, mesh: Mesh) -> bool:
    """Whether any group has devices of several slices."""
    slices = _slices(mesh)[self.members]
    return bool((slices != slices[:, :1]).any())

  def in_all_slices(self, mesh: Mesh) -> Groups:
    """Returns them with those of the other slices, where XLA writes the program of one slice."""
    slices = _slices(mesh)
    count = slices.max() + 1
    if count == 1 or self.members.size * count != mesh.size:
      return self
    positions = np.stack([np.flatnonzero(slices == index) for index in range(count)])
    return Groups(np.concatenate([of_slice[self.members] for of_slice in positions]))


def _slices(mesh: Mesh) -> np.ndarray:
  """The slice of each device in the mesh's order, counted from 0."""
  return np.unique([slice_of(device) for device in mesh.devices.flat], return_inverse=True)[1]


def collectives(text: str, mesh: Mesh) -> tuple[Collective, ...]:
  """Returns the collectives among several devices of a program of `mesh`, the largest first.

  Equal ones are one entry, with how often they run in a step. Of a ragged all-to-all the bytes are
  those that there is room for. Where nothing is differentiated, all is "forward".

  Args:
    text: of the compiled program (`jax.stages.Compiled.as_text`).
    mesh: that it was compiled for.
  """
  program = hlo.parse(text)
  differentiated = "jvp(" in text
  times: Counter[Collective] = Counter()
  for name, place in hlo.places(program).items():
    computation = program.computations[name]
    if name.startswith(_GOES_ON) or _ends_a_collective(computation):
      continue
    for instruction in computation.instructions.values():
      if (kind := _kind(instruction)) is None:
        continue
      groups = _groups(instruction, mesh)
      if groups.members.shape[1] > 1:
        op_name = hlo.op_name(computation, instruction) or place.op_name
        entry = Collective(
          kind=kind,
          axes=_axes(kind, groups, mesh),
          phase=_phase(op_name) if differentiated else "forward",
          where=_where(op_name),
          times=1,
          bytes=_sent(kind, instruction, computation),
          crosses_slices=groups.cross_slices(mesh),
          what=_what(instruction.op_name) or re.sub(r"[.\d]+$", "", instruction.name),
        )
        times[entry] += place.times
  merged = (dataclasses.replace(entry, times=count) for entry, count in times.items())
  return tuple(sorted(merged, key=lambda entry: -entry.total))


def _ends_a_collective(computation: hlo.Computation) -> bool:
  """Whether it is the last of the fusions over which a collective is spread."""
  return any(
    instruction.opcode == "custom-call" and _ENDS in instruction.attributes
    for instruction in computation.instructions.values()
  )


def _kind(instruction: hlo.Instruction) -> str | None:
  """The kind of collective that it is, or starts; between slices of TPUs hosts send what it says."""
  if instruction.opcode == "send":
    between = re.search(r'_xla_megascale_transfer_type="(\w+)"', instruction.attributes)
    return between[1].lower().replace("_", "-") if between else None
  kind = instruction.opcode.removesuffix("-start")
  return kind if kind in KINDS else None


def _sent(kind: str, instruction: hlo.Instruction, computation: hlo.Computation) -> int:
  """Bytes of the operands on one device; of a ragged one neither offsets nor room."""
  first = kind == "ragged-all-to-all" or instruction.opcode == "send"
  operands = instruction.operands[:1] if first else instruction.operands
  return sum(hlo.size(computation.instructions[operand].type) for operand in operands)


def _phase(op_name: str) -> str:
  if "transpose(" in op_name:
    return "backward"
  return "forward" if "jvp(" in op_name else "update"


def _where(op_name: str) -> str:
  """The stack, as the model names its scopes; of several that are one collective, none."""
  found = set(_STACK.findall(op_name))
  return found.pop() if len(found) == 1 else ""


def _what(op_name: str) -> str:
  """The operation; several that are one collective are (a:b:c), of which the first is named."""
  return op_name.partition(":")[0].rsplit("/", 1)[-1].lstrip("(")


def _axes(kind: str, groups: Groups, mesh: Mesh) -> tuple[str, ...]:
  """Axes of a collective; a permutation goes over one if all its pairs lie along it."""
  if kind != "collective-permute":
    return groups.axes(mesh)
  coordinates = np.stack(np.unravel_index(groups.members, tuple(mesh.shape.values())))
  moved = (coordinates[:, :, 0] != coordinates[:, :, 1]).any(axis=1)
  return tuple(np.array(mesh.axis_names)[moved].tolist())


def _groups(instruction: hlo.Instruction, mesh: Mesh) -> Groups:
  """Which devices a collective is among, in all slices."""
  if instruction.opcode == "send":  # each device with those in its place in the other slices
    slices = _slices(mesh)
    return Groups(np.stack([np.flatnonzero(slices == i) for i in range(slices.max() + 1)], axis=1))
  return written_groups(instruction.attributes, mesh.size).in_all_slices(mesh)


def written_groups(attributes: str, num_devices: int) -> Groups:
  """Reads the devices of a collective; XLA has three ways to write them, and pairs."""
  if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}", attributes):
    numbers = [int(n) for n in re.findall(r"\d+", pairs[1])]
    return Groups(np.array(numbers).reshape(-1, 2))
  if axes := re.search(r"replica_groups=mesh\[(.*?)\][^{]*\{(.*?)\}", attributes):
    return _groups_of_axes(axes[1], axes[2])
  if iota := re.search(
    r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes
  ):
    shape = [int(n) for n in iota[3].split(",")]
    order = [int(n) for n in iota[4].split(",")] if iota[4] else range(len(shape))
    ids = np.arange(math.prod(shape)).reshape(shape).transpose(order)
    return Groups(ids.reshape(int(iota[1]), int(iota[2])))
  listed = re.search(r"replica_groups=\{(\{.*?\})\}", attributes)
  if listed is None:  # {}: all devices
    return Groups(np.arange(num_devices)[None])
  groups = re.findall(r"\{([\d,]*)\}", listed[1])
  return Groups(np.array([[int(n) for n in group.split(",")] for group in groups]))


def _groups_of_axes(sizes: str, grouped: str) -> Groups:
  """Groups along axes of a mesh of XLA's: 'a'=4,'b'=2 and 'b', or 'a':(2)2, a part of an axis."""
  parts = {name: int(number) for name, number in re.findall(r"'(\w+)'=(\d+)", sizes)}
  found = re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", grouped)
  shape: list[int] = []
  inner: list[int] = []
  for name, number in parts.items():
    here = sorted(
      (int(before or 1), int(width or number)) for n, before, width in found if n == name
    )
    done = 1
    for before, width in here:
      shape += [before // done, width]
      inner.append(len(shape) - 1)
      done = before * width
    shape.append(number // done)
  outer = [axis for axis in range(len(shape)) if axis not in inner]
  ids = np.arange(math.prod(shape)).reshape(shape).transpose(outer + inner)
  return Groups(ids.reshape(-1, math.prod(shape[axis] for axis in inner)))


def memory(
  compiled: jax.stages.Compiled,
  text: str,
  *,
  params_bytes: int,
  optimizer_bytes: int,
  batch_bytes: int,
  gradient_bytes: int,
  limit: int,
) -> Memory:
  """Returns what a compiled step takes of one device's memory.

  The total, and the program's own, are the compiler's. Of its temporaries those are activations that
  a forward scan over blocks stacks up; a stack of one block has no scan, and its are "temporaries".

  Args:
    compiled: the step.
    text: of it (`compiled.as_text()`).
    params_bytes: of a device's share of the parameters.
    optimizer_bytes: of the optimizer's state.
    batch_bytes: of what it is given of the batch.
    gradient_bytes: of gradients.
    limit: what a program gets.
  """
  analysis: Any = compiled.memory_analysis()
  total = _total(analysis)
  given = {"parameters": params_bytes, "optimizer": optimizer_bytes, "batch": batch_bytes}
  program = analysis.generated_code_size_in_bytes
  rest = max(0, total - sum(given.values()) - program)
  activations = min(rest, stacked_activations(text))
  gradients = min(gradient_bytes, rest - activations)
  return Memory(
    limit=limit,
    total=total,
    kinds={
      **given,
      "gradients": gradients,
      "activations": activations,
      "temporaries": rest - activations - gradients,
      "program": program,
    },
    exact=True,
  )


def _total(analysis: Any) -> int:
  """The peak where the compiler has one; XLA for CPU leaves temporaries out of it."""
  peak = getattr(analysis, "peak_memory_in_bytes", 0)
  if peak >= max(analysis.argument_size_in_bytes, analysis.temp_size_in_bytes):
    return peak
  return (
    analysis.argument_size_in_bytes
    + analysis.output_size_in_bytes
    - analysis.alias_size_in_bytes
    + analysis.temp_size_in_bytes
    + analysis.generated_code_size_in_bytes
  )


def stacked_activations(text: str) -> int:
  """Returns the bytes that scans of a forward pass write for the backward pass, one entry a repeat."""
  program = hlo.parse(text)
  found = 0
  for name in hlo.places(program):
    computation = program.computations[name]
    for loop in computation.instructions.values():
      if loop.opcode == "while" and _phase(loop.op_name) == "forward":
        trips = hlo.trip_count(program, computation, loop)
        found += sum(_stacked(loop, program.computations[loop.computation("body")], trips))
  return found


def _stacked(loop: hlo.Instruction, body: hlo.Computation, trips: int) -> Iterable[int]:
  """Bytes of the arrays [trips, ...] that a loop does not only hand on."""
  results = body.instructions[body.root].operands
  for index, ((shape, bytes_), result) in enumerate(
    zip(hlo.arrays(loop.type), results, strict=True)
  ):
    last = body.instructions[result]
    handed_on = last.opcode == "get-tuple-element" and (
      body.instructions[last.operands[0]].opcode == "parameter"
      and f"index={index}" in re.findall(r"index=\d+", last.attributes)
    )
    if shape[:1] == (trips,) and not handed_on:
      yield bytes_


def memory_from_error(
  message: str, *, params_bytes: int, optimizer_bytes: int, batch_bytes: int, limit: int
) -> Memory | None:
  """Returns what a step would need that the compiler refused; None if the error is of something else.

  Args:
    message: of the error.
    params_bytes: of a device's share of the parameters.
    optimizer_bytes: of the optimizer's state.
    batch_bytes: of what it is given of the batch.
    limit: what a program gets; the compiler's own number is taken where it says one.
  """
  if "RESOURCE_EXHAUSTED" not in message:
    return None
  given = {"parameters": params_bytes, "optimizer": optimizer_bytes, "batch": batch_bytes}
  # On TPU all that the program has is called HLO temporaries, its arguments too.
  whole = re.search(r"HLO temporaries \(([\d.]+)([KMGT]?)B?\)", message)
  available = re.search(r"available HBM \(([\d.]+)([KMGT]?)B?\)", message)
  one = re.search(r"allocat(?:e|ing) (\d+) bytes", message)
  if whole:
    total = _bytes(whole)
  elif one:
    total = sum(given.values()) + int(one[1])
  else:
    return None
  kinds = {**given, "temporaries": max(0, total - sum(given.values()))}
  return Memory(
    limit=_bytes(available) if available else limit, total=total, kinds=kinds, exact=True
  )


def _bytes(found: re.Match[str]) -> int:
  return int(float(found[1]) * 1024 ** _UNITS[found[2]])
