# SPDX-License-Identifier: Apache-2.0
"""What a plan says, in words and rows, for the page and for the terminal.

A plan is here the dict that `planning.plan.Plan.as_json` returns, or the same read back from JSON.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from switch_t5.reports.quantities import count, gigabytes, percent, scaled, seconds, size

Content = Mapping[str, Any]
KINDS = {
  "parameters": "parameters",
  "optimizer": "optimizer's state",
  "teacher": "teacher's parameters",
  "batch": "batch",
  "gradients": "gradients",
  "activations": "activations kept",
  "temporaries": "temporaries",
  "program": "program",
}
# What a program may have above the bound before it is called excess: padding, scalars that go along.
_TOLERANCE = 0.01
SHOWN = 40  # layouts of a search


class Traffic(NamedTuple):
  """Collectives of one kind, over the same axes, in one phase and stack.

  Attributes:
    name: the kind.
    axes: joined by "+", "?" where a group is no axes of the mesh.
    phase, where: as in the plan.
    each: times and bytes, "24 x 62.9 MB".
    total: bytes a step; None where only the bound is known.
    least: bytes of the bound; None where there is none.
    slow: whether it goes over the slow network.
    excess: bytes above the bound, 0 where they are negligible.
  """

  name: str
  axes: str
  phase: str
  where: str
  each: str
  total: int | None
  least: int | None
  slow: bool
  excess: int


def title(content: Content) -> str:
  """Returns what is planned and where, in a line."""
  work, place = content["work"], content["place"]
  return f"{work['model']}, {count(work['parameters'])} parameters, on {place['topology']}"


def verdict(content: Content) -> str:
  """Returns whether it fits, and by how much not."""
  memory, place = content["memory"], content["place"]
  total, limit = memory["total"], memory["limit"]
  said = "" if memory["exact"] else " (estimated, not compiled)"
  if memory["fits"]:
    share = percent(total / limit)
    return f"Fits: {gigabytes(total)} of {gigabytes(limit)} on each {place['chip']} device, {share}{said}."
  return (
    f"Does not fit: {gigabytes(total)} on each {place['chip']} device that has {gigabytes(limit)}, "
    f"{gigabytes(total - limit)} too much{said}."
  )


def mesh(place: Content) -> str:
  """Returns the mesh, "data 2, expert 32, model 1"."""
  return ", ".join(f"{axis} {number}" for axis, number in place["mesh"].items())


def settings(content: Content) -> dict[str, str]:
  """Returns what was planned, by name."""
  work, place = content["work"], content["place"]
  layers = f"{work['encoder_layers']} encoder, {work['decoder_layers']} decoder"
  sparse = f"; {work['sparse_layers']} of them sparse" if work["sparse_layers"] else ""
  slices = f" in {place['slices']} slices" if place["slices"] > 1 else ""
  return {
    "step": f"{work['step']}, activations in {work['activation_dtype']}",
    "layers": layers + sparse,
    "devices": f"{place['devices']:,} of {place['chip']}{slices}",
    "mesh": mesh(place),
    "batch": f"{work['rows']:,} rows of {work['encoder_length']} + {work['decoder_length']} tokens, "
    + _counted(work["microbatches"], "microbatch", "microbatches"),
    "parameters": work["parameter_sharding"],
    "rematerialisation": work["remat"],
  }


def memory_kinds(content: Content) -> dict[str, int]:
  """Returns bytes by kind as they are named for readers, empty ones left out."""
  return {
    KINDS.get(name, name): bytes_ for name, bytes_ in content["memory"]["kinds"].items() if bytes_
  }


def times(content: Content) -> dict[str, float]:
  """Returns seconds of the roofline's parts; a network that nothing goes over is left out."""
  time = content["time"]
  networks = {f"{name} network": value for name, value in time["networks"].items() if value}
  return {"compute": time["compute"], "memory": time["memory"], **networks}


def figures(content: Content) -> dict[str, str]:
  """Returns what else follows from the plan, by name."""
  flops, time = content["flops"], content["time"]
  ratio = flops["counted"] * content["place"]["devices"] / flops["model"]
  dropped = [f"{stack} {percent(part)}" for stack, part in content["dropped"].items()]
  written = f"{size(content['checkpoint_bandwidth'])}/s a host"
  said = {
    "tokens a second": f"{time['tokens_per_second']:,.0f}",
    "model FLOPs of a step": f"{scaled(flops['model'])}FLOP, all devices",
    "counted in the program": f"{scaled(flops['counted'])}FLOP a device, {ratio:.3g} times the model's",
    "forward pass of a row": f"{scaled(flops['forward_per_row'])}FLOP",
    "model FLOPs utilisation": percent(time["model_flops_utilization"]),
    "tokens dropped, even router": ", ".join(dropped),
    "input": f"{count(content['rows_per_second'])} rows a second",
    "checkpoint": f"{size(content['checkpoint_bytes'])}, "
    f"{seconds(content['checkpoint_seconds'])} at {written}",
  }
  return {name: value for name, value in said.items() if value}


def traffic(content: Content) -> list[Traffic]:
  """Returns the collectives beside their bounds, the most bytes first."""
  compiled, bounds = _grouped(content["collectives"]), _grouped(content["bounds"])
  everything = _total(content["collectives"])
  # Which phase and stack XLA's names speak of is not always certain: what is above its bound there and
  # below it elsewhere is no excess.
  surplus: Counter[tuple[str, ...]] = Counter()
  for sign, entries in ((1, content["collectives"]), (-1, content["bounds"])):
    for entry in entries:
      surplus[entry["kind"], *entry["axes"]] += sign * entry["total"]
  rows = []
  for key in compiled.keys() | bounds.keys():
    kind, axes, phase, where = key
    total = _total(compiled.get(key, [])) if content["collectives"] else None
    least = _total(bounds[key]) if key in bounds else None
    shown = compiled.get(key) or bounds[key]
    excess = min((total or 0) - (least or 0), surplus[kind, *shown[0]["axes"]])
    negligible = _TOLERANCE * max(least or 0, _TOLERANCE * everything)
    rows.append(
      Traffic(
        *(kind, axes, phase, where, _each(shown), total, least),
        slow=any(entry["crosses_slices"] for entry in shown),
        excess=excess if bounds and excess > negligible else 0,
      )
    )
  return sorted(rows, key=lambda row: (-(row.total or row.least or 0), row[:4]))


def _total(entries: Sequence[Content]) -> int:
  return sum(entry["total"] for entry in entries)


def candidates(content: Content) -> list[tuple[str, ...]]:
  """Returns a row for each of the first layouts of a search: see `CANDIDATE_COLUMNS`."""
  return [
    (
      "(" + ", ".join(map(str, entry["mesh"])) + ")",
      entry["parameter_sharding"],
      str(entry["microbatches"]),
      entry["remat"],
      gigabytes(entry["memory"]),
      seconds(entry["step"]),
      "fits" if entry["fits"] else "too large",
      "compiled" if entry["compiled"] else "estimated",
    )
    for entry in content["candidates"][:SHOWN]
  ]


CANDIDATE_COLUMNS = (
  *("mesh", "parameters", "microbatches", "remat", "memory", "step", "", "memory is"),
)


def made_by(content: Content) -> str:
  """Returns what compiled it, and how long that took."""
  versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
  if content["compile_seconds"] is None:
    return f"Estimated, not compiled. {versions}".rstrip()
  return f"Compiled in {seconds(content['compile_seconds'])} by {versions}."


def _grouped(entries: Sequence[Content]) -> dict[tuple[str, str, str, str], list[Content]]:
  """Returns collectives by kind, axes, phase and stack."""
  groups: dict[tuple[str, str, str, str], list[Content]] = {}
  for entry in entries:
    axes = "+".join(entry["axes"]) or "?"
    groups.setdefault((entry["kind"], axes, entry["phase"], entry["where"]), []).append(entry)
  return groups


def _each(entries: Sequence[Content]) -> str:
  """Returns times and bytes of the three largest."""
  times: Counter[int] = Counter()
  for entry in entries:
    times[entry["bytes"]] += entry["times"]
  largest = sorted(times, key=lambda number: -number * times[number])
  written = [f"{times[number]} x {size(number)}" for number in largest[:3]]
  return " + ".join(written + [f"{len(largest) - 3} more"] * (len(largest) > 3))


def _counted(number: int, one: str, several: str) -> str:
  return f"{number} {one if number == 1 else several}"
