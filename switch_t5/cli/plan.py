# SPDX-License-Identifier: Apache-2.0
"""The mode `plan`: compiles the step of a configuration for devices that are not here, and reports.

The estimate, in closed form, comes first: what it finds wrong is said before minutes of compilation.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from importlib import metadata
from pathlib import Path

import jax

from switch_t5.checkpoint.commit import write_text_durably
from switch_t5.cli import gin_setup, platform
from switch_t5.cli.configurables import CONFIGURABLES
from switch_t5.cli.flags import CommandLine
from switch_t5.cli.planned_step import Inference, Training, configured
from switch_t5.errors import ConfigError, MeshError
from switch_t5.planning import estimate as estimate_lib
from switch_t5.planning import flops, program
from switch_t5.planning import topology as topology_lib
from switch_t5.planning.advice import advice
from switch_t5.planning.memory import traffic
from switch_t5.planning.plan import Candidate, Plan
from switch_t5.planning.search import laid_out, search
from switch_t5.planning.step import Step, device_bytes
from switch_t5.planning.topology import Topology
from switch_t5.reports import plan_page, plan_text
from switch_t5.storage.location import on_disk

# What a recipe requires and a plan does not look at.
_UNNEEDED = {
  "MODEL_DIR": "not written",
  "VOCABULARY_PATH": "not read",
  "OUTPUT_FILE": "not written",
}
_COMPILED = 3  # layouts of a search


def run(command_line: CommandLine) -> int:
  """Plans what the command line says, prints the plan, writes it to --to; 1: it does not fit."""
  if command_line.topology is None:
    raise ConfigError(
      "There is nothing to plan for.",
      rule="--topology=CHIP:DEVICES",
      remedy="--topology=v5p:8x8x8, h100:64, or cpu:8",
    )
  topology = topology_lib.parse(command_line.topology)
  emulated = topology.devices if topology.chip.platform == "cpu" else None
  platform.select("cpu", emulated)
  configuration = gin_setup.load_command_line(command_line, CONFIGURABLES, unneeded=_UNNEEDED)
  planner = Planner(configured(configuration), topology)
  folder = None if command_line.to is None else _folder(command_line.to)
  if not command_line.dry_run:
    planner.open_devices()
  plan = planner.search() if command_line.search else planner.plan(planner.step)
  content = plan.as_json()
  print(json.dumps(content, indent=2) if command_line.json else plan_text.render(content))
  if folder is not None:
    write_text_durably(folder / "plan.json", json.dumps(content, indent=2) + "\n")
    write_text_durably(folder / "plan.html", plan_page.render(content))
    _say(f"Written: {folder}/plan.html, plan.json")
  return 0 if plan.memory.fits else 1


class Planner:
  """Plans of a step on a topology.

  Args:
    work: the step.
    topology: where.

  Raises:
    MeshError: if no layout of the topology's devices divides.
  """

  def __init__(self, work: Training | Inference, topology: Topology):
    self._work, self._topology = work, topology
    self._devices: list[jax.Device] | None = None
    self.candidates = search(work.step, work.arrays, topology)
    self.step = self._with_all_devices(work.step)

  def open_devices(self) -> None:
    """Describes the devices to the compiler, without which plans are estimates."""
    topology_lib.prepare(self._topology)
    self._devices = topology_lib.devices(self._topology)

  def plan(self, step: Step) -> Plan:
    """Returns the plan of a layout, compiled where the devices are open."""
    plan = estimate_lib.estimate(step, self._work.arrays, self._topology)
    if self._devices is not None:
      plan = self._compiled(step, plan)
    plan = dataclasses.replace(plan, candidates=tuple(self.candidates))
    return dataclasses.replace(plan, advice=advice(plan, step, self._work.arrays, self._topology))

  def search(self) -> Plan:
    """Returns the plan of the best layout, the best few compiled."""
    best: list[tuple[Candidate, Plan]] = []
    for index, candidate in enumerate(self.candidates):
      if self._devices is None or len(best) == _COMPILED or not candidate.fits:
        break
      plan = self.plan(laid_out(self._work.step, candidate))
      self.candidates[index] = dataclasses.replace(
        candidate,
        memory=plan.memory.total,
        step=plan.time.step,
        fits=plan.memory.fits,
        compiled=True,
      )
      best.append((self.candidates[index], plan))
    if not best:
      return self.plan(laid_out(self._work.step, self.candidates[0]))
    _, plan = min(best, key=lambda pair: (not pair[0].fits, pair[0].step))
    return dataclasses.replace(plan, candidates=tuple(self.candidates))

  def _with_all_devices(self, step: Step) -> Step:
    """Returns the step as it is, or on the best mesh of all devices where its own is of others."""
    if step.mesh.num_devices == self._topology.devices:
      step.model.check_mesh(step.mesh, step.rows, step.microbatches)
      return step
    same = [
      candidate
      for candidate in self.candidates
      if (candidate.parameter_sharding, candidate.microbatches, candidate.remat)
      == (step.parameter_sharding, step.microbatches, step.model.remat)
    ]
    if not self.candidates:
      raise MeshError(
        "No mesh of these devices divides the step.",
        value=f"{self._topology.text}: {self._topology.devices:,} devices; BATCH_SIZE = {step.rows}",
        rule="rows, groups, experts, heads and widths are multiples of their devices",
        remedy="another topology, a larger BATCH_SIZE, or fewer sequences per group",
      )
    chosen = (same or self.candidates)[0]
    _say(
      f"MESH_SHAPE = {tuple(step.mesh)} is of {step.mesh.num_devices:,} devices, {self._topology.text} has "
      f"{self._topology.devices:,}: planned with {chosen.mesh}, by the estimate the fastest that fits."
    )
    return laid_out(step, chosen)

  def _compiled(self, step: Step, plan: Plan) -> Plan:
    """Returns an estimate with what the compiler says in its place."""
    assert self._devices is not None
    started = time.perf_counter()
    chip, slices = self._topology.chip, self._topology.slices
    placed = self._work.lay_out(step, self._devices)
    given = {
      "params_bytes": device_bytes(self._work.arrays.params, step) + placed.teacher_bytes,
      "optimizer_bytes": device_bytes(self._work.arrays.optimizer, step),
      "batch_bytes": plan.memory.kinds["batch"],
      "limit": chip.usable_memory,
    }
    _say(f"Compiling for {self._topology.text} on {tuple(step.mesh)} ...")
    with jax.set_mesh(placed.mesh):
      traced = placed.trace()
      counted = flops.count(traced, step.mesh.num_devices, loop_trips=self._work.loop_trips)
      plan = dataclasses.replace(
        plan,
        flops=dataclasses.replace(plan.flops, counted=sum(counted.values()), by_dtype=counted),
        versions=_versions(chip.platform),
      )
      try:
        compiled = traced.lower().compile()
      except jax.errors.JaxRuntimeError as error:
        memory = program.memory_from_error(str(error), **given)
        if memory is None:
          raise
        return self._timed(plan, started, memory=memory)
    text = compiled.as_text()
    found = program.collectives(text, placed.mesh)
    gradients = device_bytes(self._work.arrays.params, step) if step.trains else 0
    took = estimate_lib.time(step, chip, slices, counted, traffic(step, self._work.arrays), found)
    return self._timed(
      plan,
      started,
      memory=program.memory(compiled, text, gradient_bytes=gradients, **given),
      collectives=found,
      time=took,
      rows_per_second=step.rows / took.step,
    )

  def _timed(self, plan: Plan, started: float, **changes: object) -> Plan:
    seconds = time.perf_counter() - started
    return dataclasses.replace(plan, compile_seconds=seconds, **changes)  # type: ignore[arg-type]


def _folder(path: str) -> Path:
  """Makes the folder of --to before anything is compiled; raises ConfigError if it cannot be made."""
  folder = on_disk(path, "The folder of a plan")
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise ConfigError(
      "The folder of the plan cannot be made.",
      value=f"--to={path}: {error.strerror}",
      remedy="a folder that can be written, or one that is not there yet",
    ) from None
  return folder


def _versions(kind: str) -> dict[str, str]:
  """Returns the versions of what compiled."""
  packages = {
    "tpu": ("jax", "libtpu"),
    "gpu": ("jax", "jax-cuda12-plugin"),
    "cpu": ("jax", "jaxlib"),
  }
  return {name: metadata.version(name) for name in packages[kind]}


def _say(text: str) -> None:
  print(text, file=sys.stderr, flush=True)
