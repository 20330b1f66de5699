# SPDX-License-Identifier: Apache-2.0
"""The paper's layouts, FSDP and two slices, compiled for TPUs: what crosses devices, beside the least.

  python -m benchmarks.layouts [--json] [--only=NAME,NAME]

The demo's Switch model in bfloat16, 8 experts, on eight planned v5p chips (the extra `plan`). Bytes are of
one device's operands in a step. "all-reduce" and "reduce-scatter" are one line, as are what is gathered
and what is reduced of FSDP's kernels: XLA chooses among them.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable

import jax

from benchmarks.timing import print_results
from switch_t5.cli import gin_setup
from switch_t5.cli.configurables import CONFIGURABLES
from switch_t5.cli.planned_step import Training
from switch_t5.planning import program, topology
from switch_t5.planning.bounds import bounds
from switch_t5.planning.plan import Collective
from switch_t5.sharding.mesh import MeshShape

ONE, TWO = "v5p:2x2x2", "v5p:2x2x1*2"
# (devices, mesh, how parameters are stored)
LAYOUTS = {
  "data": (ONE, (8, 1, 1), "replicated"),
  "model": (ONE, (1, 1, 8), "replicated"),
  "data+model": (ONE, (4, 1, 2), "replicated"),
  "expert+data": (ONE, (2, 4, 1), "replicated"),
  "expert+model+data": (ONE, (2, 2, 2), "replicated"),
  "FSDP": (ONE, (8, 1, 1), "fsdp"),
  "FSDP+expert+model": (ONE, (2, 2, 2), "fsdp"),
  "two slices: expert": (TWO, (2, 4, 1), "replicated"),
  "two slices: expert+model": (TWO, (2, 2, 2), "replicated"),
  "two slices: FSDP": (TWO, (2, 4, 1), "fsdp"),
}
SETTINGS = (
  "MODEL_DIR = 'not written'",
  "BATCH_SIZE = 64",
  "ModelConfig.sequences_per_group = 4",
  "ModelConfig.activation_dtype = 'bfloat16'",
  "ModelConfig.num_heads = 8",
  "ModelConfig.d_kv = 32",
)
Row = tuple[str, str, bool]  # kind, axes, whether it crosses slices
HEADING = f"{'layout':<30}{'kind':<20}{'over':<14}{'times':>6}{'MB':>9}{'least MB':>10}"


def measure(name: str) -> tuple[Counter[Row], Counter[Row], Counter[Row]]:
  """Returns how often, how many bytes, and the least bytes, of each kind of collective."""
  where, mesh, way = LAYOUTS[name]
  config = gin_setup.load(["recipes/pretrain_demo.gin"], SETTINGS, [], CONFIGURABLES).call("train")
  training = Training(config)
  planned = topology.parse(where)
  topology.prepare(planned)
  step = training.step.laid_out(mesh=MeshShape(*mesh), parameter_sharding=way)
  laid_out = training.lay_out(step, topology.devices(planned))
  with jax.set_mesh(laid_out.mesh):
    text = laid_out.trace().lower().compile().as_text()
  found = program.collectives(text, laid_out.mesh)
  times: Counter[Row] = Counter()
  for collective in found:
    times[_row(collective)] += collective.times
  return times, _bytes(found), _bytes(bounds(step, planned.slices))


def _bytes(collectives: Iterable[Collective]) -> Counter[Row]:
  total: Counter[Row] = Counter()
  for collective in collectives:
    total[_row(collective)] += collective.total
  return total


def _row(collective: Collective) -> Row:
  return collective.kind, "+".join(collective.axes) or "other", collective.crosses_slices


def main() -> None:
  """Prints the table, or what is above the least."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--json", action="store_true")
  parser.add_argument("--only", default=",".join(LAYOUTS))
  arguments = parser.parse_args()
  jax.config.update("jax_platforms", "cpu")
  ratios = {}
  if not arguments.json:
    print(HEADING)
  for name in arguments.only.split(","):
    times, sent, least = measure(name)
    for row in sorted(sent | least, key=lambda row: -max(sent[row], least[row])):
      kind, axes, slow = row
      if not arguments.json:
        print(
          f"{name:<30}{kind:<20}{axes + ' (slow)' * slow:<14}{times[row]:>6}{sent[row] / 1e6:>9.3f}"
          f"{least[row] / 1e6:>10.3f}",
          flush=True,
        )
    ratios[f"{name}: bytes / least"] = sent.total() / least.total()
    ratios[f"{name}: all-to-all bytes / least"] = _of("all-to-all", sent) / max(
      1, _of("all-to-all", least)
    )
  print_results(ratios, arguments.json)


def _of(kind: str, counted: Counter[Row]) -> int:
  return sum(number for row, number in counted.items() if row[0] == kind)


if __name__ == "__main__":
  main()
