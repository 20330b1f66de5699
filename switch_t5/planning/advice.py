# SPDX-License-Identifier: Apache-2.0
"""Sentences about a plan: what to change where it does not fit, and what it wastes."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from switch_t5.model.config import REMAT
from switch_t5.planning.bounds import wire_bytes
from switch_t5.planning.estimate import dropped
from switch_t5.planning.memory import memory
from switch_t5.planning.plan import Collective, Plan
from switch_t5.planning.search import divides, fewest_microbatches, laid_out, search
from switch_t5.planning.step import StateArrays, Step
from switch_t5.planning.topology import Topology
from switch_t5.reports.quantities import gigabytes, percent, seconds, size
from switch_t5.sharding.mesh import MeshShape

_MOST_DROPPED = 0.01  # the paper's "typically less than 1%" (section 2.2)
_MOST_PADDING = 1.5  # of rows that are sent, beyond the capacity factor itself
_EXCESS = 1.05  # of bytes over the bound: below it are losses and metrics


def advice(plan: Plan, step: Step, arrays: StateArrays, topology: Topology) -> tuple[str, ...]:
  """Returns what to change and by how much, or what is noteworthy; the gravest first.

  Savings are differences of closed forms, also where the compiler counted the plan's memory.

  Args:
    plan: of the step.
    step: what was planned.
    arrays: its state.
    topology: where.
  """
  found: list[str] = []
  if not plan.memory.fits:
    found += _to_fit(plan, step, arrays, topology)
  found += _drops(step, plan.dropped)
  for stack in step.model.sparse_stacks:
    found += _padding(step, stack)
  found += _networks(plan, step)
  found += _excess(plan, step.mesh)
  return tuple(found)


def _to_fit(plan: Plan, step: Step, arrays: StateArrays, topology: Topology) -> Iterator[str]:
  """Yields by how much a plan does not fit, and which single changes, or all together, make it fit."""
  limit, total = plan.memory.limit, plan.memory.total
  yield (
    f"It does not fit: a device would need {gigabytes(total)} and has {gigabytes(limit)}, "
    f"{gigabytes(total - limit)} too little."
  )
  own = memory(step, arrays, limit).total
  fits = False
  for changed in _single_changes(step, arrays, topology):
    saved = own - memory(changed, arrays, limit).total
    if saved <= 0:
      continue
    enough = total - saved <= limit
    fits = fits or enough
    yield (
      f"{_gin(step, changed)} saves about {gigabytes(saved)}: about {gigabytes(total - saved)}, "
      f"{'which fits' if enough else 'not enough alone'}."
    )
  if fits:
    return
  best = next(iter(search(step, arrays, topology)), None)
  if best is not None and best.fits:
    yield f"{_gin(step, laid_out(step, best))}: about {gigabytes(best.memory)}, which fits."
  elif best is not None:
    more = math.ceil(topology.devices * best.memory / limit)
    yield (
      f"No layout of {topology.devices} devices fits; the smallest takes about {gigabytes(best.memory)} "
      f"of each. About {more} devices would do, or devices with more memory."
    )


def _single_changes(step: Step, arrays: StateArrays, topology: Topology) -> Iterator[Step]:
  """Yields the layouts that differ in one thing, where there is one."""
  if not step.trains:
    return
  doubled = step.laid_out(microbatches=2 * step.microbatches)
  changes = [fewest_microbatches(doubled, arrays, topology)]
  changes += [step.laid_out(remat=name) for name in REMAT[REMAT.index(step.model.remat) + 1 :]]
  if step.parameter_sharding == "replicated" and step.mesh.data > 1:
    changes.append(step.laid_out(parameter_sharding="fsdp"))
  data, expert, model = step.mesh
  if data % 2 == 0:
    changes += [
      step.laid_out(mesh=MeshShape(data // 2, expert * 2, model))
      if step.model.num_experts
      else None,
      step.laid_out(mesh=MeshShape(data // 2, expert, model * 2)),
    ]
  if expert % 2 == 0:
    changes.append(step.laid_out(mesh=MeshShape(data, expert // 2, model * 2)))
  yield from (c for c in changes if c is not None and divides(c, arrays, topology))


def _gin(before: Step, after: Step) -> str:
  """Returns the bindings that make one layout of another."""
  bindings = []
  if before.mesh != after.mesh:
    bindings.append(f"MESH_SHAPE = {tuple(after.mesh)}")
  if before.microbatches != after.microbatches:
    bindings.append(f"NUM_MICROBATCHES = {after.microbatches}")
  if before.model.remat != after.model.remat:
    bindings.append(f"ModelConfig.remat = '{after.model.remat}'")
  if before.parameter_sharding != after.parameter_sharding:
    bindings.append(f"train.parameter_sharding = '{after.parameter_sharding}'")
  return " with ".join(bindings)


def _drops(step: Step, fractions: dict[str, float]) -> Iterator[str]:
  """Yields which groups are so small that even an even router drops too much."""
  for stack, fraction in fractions.items():
    if fraction <= _MOST_DROPPED:
      continue
    tokens = step.model.group_sequences(stack) * step.length(stack)
    yield (
      f"In the {stack} even a router without preferences drops {percent(fraction)} of the choices: "
      f"{step.model.num_experts} experts have few places for a group of {tokens} tokens. "
      f"{_larger_groups(step, stack, fraction)}"
    )


def _larger_groups(step: Step, stack: str, fraction: float) -> str:
  """Returns the smallest group of whole sequences that drops little, else the best one."""
  name = "decoder_sequences_per_group" if stack == "decoder" else "sequences_per_group"
  best, lowest = None, fraction
  for n in range(step.model.group_sequences(stack) + 1, step.device_rows + 1):
    if step.device_rows % n == 0 and lowest > _MOST_DROPPED:
      changes: dict[str, Any] = {name: n}
      model = dataclasses.replace(step.model, **changes)
      would_drop = dropped(dataclasses.replace(step, model=model))[stack]
      if would_drop < lowest:
        best, lowest = n, would_drop
  if best is None:
    return "A larger train_capacity_factor drops less; no larger group that divides the batch does."
  length = best * step.length(stack)
  return f"ModelConfig.{name} = {best} ({length} tokens) would drop {percent(lowest)}."


def _padding(step: Step, stack: str) -> Iterator[str]:
  """Yields how many empty places experts have, and what the way without capacity sends."""
  router, factor = step.model.router(stack), step.capacity_factor()
  if factor is None or router.kind == "expert_choice":
    return
  choices = step.tokens(stack) * router.num_selected_experts
  slots = step.slots(stack)
  if slots <= _MOST_PADDING * max(factor, 1.0) * choices:
    return
  width = step.model.d_model * step.model.dtype.dtype.itemsize // step.mesh.model
  tokens = step.model.group_sequences(stack) * step.length(stack)
  places = slots * tokens // (step.tokens(stack) * step.model.num_experts)
  yield (
    f"In the {stack} a device sends {slots} rows for {choices} choices, {slots / choices:.1f} times "
    f"as many: each of {step.model.num_experts} experts has {places} place(s) for a group of "
    f"{tokens} tokens. ModelConfig.train_capacity_factor = None sends {choices} rows, "
    f"{size(choices * width)} in place of {size(slots * width)} an all-to-all, and drops nothing; "
    f"each device then has room for {choices * step.mesh.expert} rows."
  )


def _networks(plan: Plan, step: Step) -> Iterator[str]:
  """Yields which network takes longer than the matmuls, and what goes over it."""
  for name, took in plan.time.networks.items():
    if took <= plan.time.compute:
      continue
    over = [c for c in plan.collectives or plan.bounds if c.crosses_slices == (name == "slow")]
    if not over:
      continue
    most = max(over, key=lambda c: wire_bytes(c, step.mesh))
    yield (
      f"The {name} network takes {seconds(took)}, the matmuls {seconds(plan.time.compute)}. "
      f"Most of it is {_named(most)}: {_remedy(most)}."
    )


def _remedy(collective: Collective) -> str:
  """Returns what sends less of it."""
  if "model" in collective.axes:
    return "fewer devices along model send less"
  if collective.kind in ("all-to-all", "ragged-all-to-all"):
    return "a smaller train_capacity_factor sends less, and devices along model share it"
  return "fewer microbatches, or a larger batch, send less for each row"


def _excess(plan: Plan, mesh: MeshShape) -> Iterator[str]:
  """Yields over which axes the compiled program sends more than the layout needs."""
  needed, sent = _by_axes(plan.bounds, mesh), _by_axes(plan.collectives, mesh)
  for axes, sends in sent.items():
    least = needed.get(axes, 0.0)
    if sends <= _EXCESS * least + 2**20:
      continue
    of_axes = [c for c in plan.collectives if c.axes == axes]
    surplus: Counter[tuple[str, str, str]] = Counter()
    for c in of_axes:
      surplus[c.kind, c.phase, c.where] += c.total
    for c in plan.bounds:
      surplus[c.kind, c.phase, c.where] -= c.total if c.axes == axes else 0
    most = max(of_axes, key=lambda c: (surplus[c.kind, c.phase, c.where], c.total))
    over = " and ".join(axes) or "groups that are no axes of the mesh"
    note = ""
    if plan.place.chip == "cpu" and plan.work.activation_dtype == "bfloat16":
      note = " XLA sends bfloat16 as float32 on CPU, and on no other device."
    yield (
      f"Over {over} the program sends {size(sends)} a step and device, {size(sends - least)} more "
      f"than the layout needs; most of it by {_named(most)}.{note}"
    )


def _by_axes(collectives: Iterable[Collective], mesh: MeshShape) -> dict[tuple[str, ...], float]:
  found: dict[tuple[str, ...], float] = defaultdict(float)
  for c in collectives:
    found[c.axes] += wire_bytes(c, mesh)
  return found


def _named(collective: Collective) -> str:
  where = f" in the {collective.where}" if collective.where else ""
  what = f" ({collective.what})" if collective.what else ""
  over = " and ".join(collective.axes) or "other groups"
  times = "once" if collective.times == 1 else f"{collective.times} times"
  return (
    f"{collective.kind} over {over}{where}, {collective.phase}, {times} "
    f"{size(collective.bytes)}{what}"
  )
