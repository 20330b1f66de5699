# SPDX-License-Identifier: Apache-2.0
"""Which layouts of a step fit some devices, the fastest first, by the closed forms."""

from __future__ import annotations

from collections.abc import Iterator

from switch_t5.errors import MeshError
from switch_t5.model.config import REMAT
from switch_t5.planning.estimate import estimated_time
from switch_t5.planning.memory import memory
from switch_t5.planning.plan import Candidate
from switch_t5.planning.step import StateArrays, Step
from switch_t5.planning.topology import Topology
from switch_t5.sharding.mesh import MeshShape
from switch_t5.sharding.rules import PARAMETER_RULES, check_divides


def search(step: Step, arrays: StateArrays, topology: Topology) -> list[Candidate]:
  """Returns layouts on all of the devices: those that fit by their time, the others by their memory.

  Each mesh that divides model, batch and groups is tried with each way of storing parameters and of
  rematerialisation, and of microbatches with the fewest that fit: more of them are never faster.

  Args:
    step: its work counts, its layout does not.
    arrays: the state.
    topology: the devices.
  """
  found = []
  for mesh in _meshes(step, topology):
    # With one device along data there is nothing to split parameters over.
    for way in PARAMETER_RULES if step.trains and mesh.data > 1 else ("replicated",):
      for remat in REMAT if step.trains else ("none",):
        tried = step.laid_out(mesh=mesh, parameter_sharding=way, microbatches=1, remat=remat)
        if (fewest := fewest_microbatches(tried, arrays, topology)) is not None:
          found.append(candidate(fewest, arrays, topology))
  return sorted(found, key=lambda c: (not c.fits, c.step if c.fits else c.memory, c.memory))


def candidate(step: Step, arrays: StateArrays, topology: Topology) -> Candidate:
  """Returns what the closed forms say of a layout."""
  needed = memory(step, arrays, topology.chip.usable_memory)
  took = estimated_time(step, arrays, topology)
  data, expert, model = step.mesh
  return Candidate(
    mesh=(data, expert, model),
    parameter_sharding=step.parameter_sharding,
    microbatches=step.microbatches,
    remat=step.model.remat,
    memory=needed.total,
    step=took.step,
    fits=needed.fits,
    compiled=False,
  )


def laid_out(step: Step, chosen: Candidate) -> Step:
  """Returns the step in a layout that a search found."""
  return step.laid_out(
    mesh=MeshShape(*chosen.mesh),
    parameter_sharding=chosen.parameter_sharding,
    microbatches=chosen.microbatches,
    remat=chosen.remat,
  )


def divides(step: Step, arrays: StateArrays, topology: Topology) -> bool:
  """Says whether a layout can be: mesh, batch, groups, parameters and slices."""
  mesh = step.mesh
  if mesh.num_devices != topology.devices or mesh.data % topology.slices:
    return False
  try:
    step.model.check_mesh(mesh, step.rows, step.microbatches)
    rules = PARAMETER_RULES[step.parameter_sharding]
    for leaf in arrays.params:
      check_divides(mesh._asdict(), leaf.path, leaf.shape, leaf.axes, rules)
  except MeshError:
    return False
  return True


def fewest_microbatches(step: Step, arrays: StateArrays, topology: Topology) -> Step | None:
  """Returns the layout with the fewest microbatches, 1, 2, 4, ..., that fits; else with the most.

  None where no number of them divides.
  """
  last, microbatches = None, step.microbatches
  while microbatches <= step.rows:
    tried = step.laid_out(microbatches=microbatches)
    if not divides(tried, arrays, topology):
      break
    last = tried
    if not step.trains or memory(tried, arrays, topology.chip.usable_memory).fits:
      break
    microbatches *= 2
  return last


def _meshes(step: Step, topology: Topology) -> Iterator[MeshShape]:
  """Yields the shapes of all devices; a dense model has no use for the axis expert."""
  devices, experts = topology.devices, step.model.num_experts or 1
  for model in _divisors(devices):
    for expert in _divisors(devices // model):
      if experts % expert == 0:
        yield MeshShape(devices // model // expert, expert, model)


def _divisors(number: int) -> list[int]:
  return [n for n in range(1, number + 1) if number % n == 0]
