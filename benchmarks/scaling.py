# SPDX-License-Identifier: Apache-2.0
"""From 8 to 2,048 planned devices at constant work a device: what each of them has to do.

  python -m benchmarks.scaling [--json] [--chip=v5p] [--devices=8,32,128,512,2048] [--picture=FILE]

A small Switch model's train step, 64 rows of 128 + 128 tokens a device in a group of their own, is
compiled in two ways: eight experts and more and more data; and an expert for each device. Flat is the
goal. The router is a matmul with as many columns as there are experts, so in the second way its FLOPs
grow: to E / 2f of an expert's.

TPUs v5p need the extra `plan`. On --chip=cpu an all-to-all is a program of as many operands as there
are devices, so compiling takes longer the more there are.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from benchmarks.timing import print_results
from switch_t5.cli import gin_setup
from switch_t5.cli.configurables import CONFIGURABLES
from switch_t5.cli.planned_step import Training
from switch_t5.planning import flops, program, topology
from switch_t5.reports import svg

WAYS = ("more data", "more experts")
ROWS = 64  # a device, and a group
SETTINGS = (
  "MODEL_DIR = 'not written'",
  "TASK_FEATURE_LENGTHS = {'inputs': 128, 'targets': 128}",
  "ModelConfig.d_ff = 1024",
  "ModelConfig.activation_dtype = 'bfloat16'",
  "ModelConfig.remat = 'full'",
  f"ModelConfig.sequences_per_group = {ROWS}",
)
HEADING = (
  f"{'':<14}{'devices':>8}{'GFLOP':>10}{'MB between':>12}{'memory, GB':>12}{'compile, s':>12}"
)
V5P = {8: "2x2x2", 32: "2x4x4", 128: "4x4x8", 512: "8x8x8", 2048: "8x16x16"}


class Share(NamedTuple):
  """What one of the devices has to do for a step, and what compiling it takes in all."""

  flops: float
  bytes_between: int
  memory: int
  compile_seconds: float


def measure(way: str, devices: int, chip: str) -> Share:
  """Compiles the step for so many devices."""
  mesh_shape = (devices // 8, 8, 1) if way == "more data" else (1, devices, 1)
  bindings = [
    *SETTINGS,
    f"MESH_SHAPE = {mesh_shape}",
    f"NUM_EXPERTS = {mesh_shape[1]}",
    f"BATCH_SIZE = {ROWS * devices}",
  ]
  config = gin_setup.load(["recipes/pretrain_demo.gin"], bindings, [], CONFIGURABLES).call("train")
  training = Training(config)
  planned = topology.parse(f"{chip}:{V5P[devices] if chip == 'v5p' else devices}")
  topology.prepare(planned)
  step = training.lay_out(training.step, topology.devices(planned))
  started = time.perf_counter()
  with jax.set_mesh(step.mesh):
    traced = step.trace()
    compiled = traced.lower().compile()
  seconds = time.perf_counter() - started
  crossing = program.collectives(compiled.as_text(), step.mesh)
  analysis = compiled.memory_analysis()
  return Share(
    sum(flops.count(traced, devices).values()),
    sum(collective.total for collective in crossing),
    analysis.argument_size_in_bytes + analysis.temp_size_in_bytes,
    seconds,
  )


def line(way: str, devices: int, share: Share) -> str:
  """Returns what a device has to do, as a line under `HEADING`."""
  return (
    f"{way:<14}{devices:>8,}{share.flops / 1e9:>10,.1f}{share.bytes_between / 1e6:>12,.2f}"
    f"{share.memory / 1e9:>12.3f}{share.compile_seconds:>12.1f}"
  )


def draw(shares: dict[tuple[str, int], Share], sizes: Sequence[int]) -> str:
  """Returns a picture of everything beside its value at the fewest devices."""
  names = ("FLOPs", "bytes between devices", "memory")
  lines = [
    svg.Line(
      f"{name}, {way}",
      [(math.log2(n), shares[way, n][i] / shares[way, sizes[0]][i]) for n in sizes],
    )
    for way in WAYS
    for i, name in enumerate(names)
  ]
  top = math.ceil(2 * max(y for line in lines for _, y in line.points)) / 2
  picture = svg.lines(
    "A device's share of a step at constant work, over that of the fewest devices",
    "; ".join(f"{line.label} {line.points[-1][1]:.2f} at {sizes[-1]:,} devices" for line in lines),
    lines,
    x_ticks=[svg.Mark(math.log2(n), f"{n:,}") for n in sizes],
    y_ticks=[svg.Mark(i / 2, str(i / 2)) for i in range(int(2 * top) + 1)],
  )
  return svg.as_file(picture)


def main() -> None:
  """Prints the table, or the ratios of the most devices to the fewest."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--json", action="store_true")
  parser.add_argument("--devices", default="8,32,128,512,2048")
  parser.add_argument("--chip", choices=("v5p", "cpu"), default="v5p")
  parser.add_argument("--picture", type=Path)
  arguments = parser.parse_args()
  sizes = sorted(map(int, arguments.devices.split(",")))
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_num_cpu_devices", sizes[-1])
  shares = {}
  if not arguments.json:
    print(HEADING)
  for way, devices in itertools.product(WAYS, sizes):
    shares[way, devices] = measure(way, devices, arguments.chip)
    if not arguments.json:
      print(line(way, devices, shares[way, devices]), flush=True)
  if arguments.picture:
    arguments.picture.write_text(draw(shares, sizes), encoding="utf-8")
  ratios = {}
  for way in WAYS:
    fewest, most = shares[way, sizes[0]], shares[way, sizes[-1]]
    for name, few, many in zip(Share._fields, fewest, most, strict=True):
      ratios[f"{way}: {name} at {sizes[-1]} / {sizes[0]}"] = many / few
  print_results(ratios, arguments.json)


if __name__ == "__main__":
  main()
