# SPDX-License-Identifier: Apache-2.0
"""What a report shows of a run, from plain values: lines of its metrics, words for its state."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from switch_t5.reports.axes import Point

# (step, value) by the public name of a metric, in the order in which the names first came.
Metrics = Mapping[str, Sequence[Point]]


class Checkpoint(NamedTuple):
  """A committed checkpoint: its step, bytes, when, and whether it is the best one."""

  step: int
  size: int
  committed: str
  is_best: bool


class Warned(NamedTuple):
  """An alarm: the step, what was seen, the likely cause, the gin line to change."""

  step: int
  what: str
  cause: str
  remedy: str


class Loads(NamedTuple):
  """How a router's tokens spread over its experts.

  Attributes:
    steps: of the columns, ascending.
    relative: of each step the load of each expert over the mean load, [E].
  """

  steps: Sequence[int]
  relative: Sequence[Sequence[float]]


class Pieces(NamedTuple):
  """What an expert takes.

  Attributes:
    tokens: how many were counted.
    top: its commonest pieces, with their shares of these tokens.
    own: pieces of which it takes most, with how much of them.
  """

  tokens: int
  top: Sequence[tuple[str, float]]
  own: Sequence[tuple[str, float]] = ()


class RunContent(NamedTuple):
  """All that a report shows of a MODEL_DIR.

  Attributes:
    name: of it.
    metrics: of it, see `by_name`.
    starts: of run.json.
    config: the operative configuration, gin text.
    total_steps: TRAIN_STEPS; None if it is not known.
    goodput: a line; and the seconds by kind.
    seconds: where the time went, by kind.
    checkpoints: in the order of steps.
    alarms: in the order of steps.
    loads: by router.
    pieces: by router, of each expert.
    plan: a plan of the run (`Plan.as_json`), if there is one.
  """

  name: str
  metrics: Metrics
  starts: Sequence[Mapping[str, Any]]
  config: str
  total_steps: int | None = None
  goodput: str = ""
  seconds: Mapping[str, float] = {}
  checkpoints: Sequence[Checkpoint] = ()
  alarms: Sequence[Warned] = ()
  loads: Mapping[str, Loads] = {}
  pieces: Mapping[str, Sequence[Pieces]] = {}
  plan: Mapping[str, Any] | None = None


def by_name(rows: Iterable[Mapping[str, float]]) -> dict[str, list[Point]]:
  """Returns the metrics of rows, each of a step, in the order of steps."""
  found: dict[str, list[Point]] = {}
  for row in rows:
    step = row["step"]
    for name, value in row.items():
      found.setdefault(name, []).append((step, value))
  return found


def held_out(metrics: Metrics, metric: str = "cross_entropy") -> dict[str, Sequence[Point]]:
  """Returns `eval/<task>/<metric>` by task."""
  return {
    name.split("/")[1]: found
    for name, found in metrics.items()
    if name.startswith("eval/") and name.endswith(f"/{metric}")
  }


def routers(metrics: Metrics) -> list[str]:
  """Returns the names of the routers."""
  of_routers = (name.removeprefix("router/") for name in metrics if name.startswith("router/"))
  return list(dict.fromkeys(name.rpartition("/")[0] for name in of_routers))


def last(metrics: Metrics, name: str) -> float | None:
  """Returns the last value of a metric."""
  return metrics[name][-1][1] if name in metrics else None


def last_step(metrics: Metrics) -> int:
  """Returns the last step that was logged; 0 if there is none."""
  return int(metrics["step"][-1][0]) if metrics else 0


def verdict(run: RunContent) -> tuple[str, bool]:
  """Returns a sentence on where the run stands, and whether it is well."""
  step = last_step(run.metrics)
  of_all = "" if run.total_steps is None else f" of {run.total_steps:,}"
  parts = [f"Step {step:,}{of_all}"]
  loss = last(run.metrics, "train/cross_entropy")
  if loss is not None:
    parts.append(f"{loss:.3f} nats per target token in training")
  parts += [
    f"{found[-1][1]:.3f} held out ({task})"
    for task, found in held_out(run.metrics).items()
    if found
  ]
  finite = loss is None or math.isfinite(loss)
  if not finite:
    parts.append("it has diverged")
  if run.alarms:
    parts.append(f"{len(run.alarms)} alarm{'s' * (len(run.alarms) != 1)}")
  return ", ".join(parts) + ".", finite and not run.alarms


def facts(run: RunContent) -> dict[str, object]:
  """Returns names and what they are, of the last start."""
  if not run.starts:
    return {}
  first, latest = run.starts[0], run.starts[-1]
  mesh = ", ".join(f"{axis} {size}" for axis, size in latest.get("mesh", {}).items())
  versions = latest.get("versions", {})
  shown = [
    f"{name} {versions[name]}" for name in ("switch_t5", "jax", "python") if name in versions
  ]
  return {
    "begun": first.get("time", ""),
    "starts": f"{len(run.starts)}, the last at step {latest.get('step', 0):,}",
    "devices": latest.get("devices", ""),
    "mesh": mesh,
    "processes": latest.get("processes", 1),
    "versions": ", ".join(shown),
    "time": run.goodput,
  }


def differences(configs: Sequence[str]) -> list[tuple[str, list[str]]]:
  """Returns the lines of configurations that are not the same in all: a name, and each one's value."""
  parsed = [_assignments(text) for text in configs]
  keys = sorted({key for found in parsed for key in found})
  rows = [(key, [found.get(key, "") for found in parsed]) for key in keys]
  return [(key, values) for key, values in rows if len(set(values)) > 1]


def _assignments(text: str) -> dict[str, str]:
  found, name = {}, ""
  for line in text.splitlines():
    if line.startswith("#") or not line.strip():
      continue
    if " = " in line and not line[0].isspace():
      name, _, value = line.partition(" = ")
      found[name] = value
    elif name:  # a value of several lines
      found[name] += " " + line.strip()
  return found


def spread(metrics: Metrics, statistic: str, at_most: int) -> list[tuple[str, Sequence[Point]]]:
  """Returns a statistic of the routers as labelled lines: of each, or of many the least, mean, greatest.

  Args:
    metrics: of a run.
    statistic: e.g. "entropy".
    at_most: how many lines.
  """
  of_router = {
    router: metrics[name]
    for router in routers(metrics)
    if (name := f"router/{router}/{statistic}") in metrics
  }
  if len(of_router) <= at_most:
    return list(of_router.items())
  by_step: dict[float, list[float]] = {}
  for found in of_router.values():
    for step, value in found:
      by_step.setdefault(step, []).append(value)
  steps = sorted(by_step)
  forms: dict[str, Callable[[list[float]], float]] = {
    "greatest of the routers": max,
    "mean of the routers": lambda values: sum(values) / len(values),
    "least of the routers": min,
  }
  return [(label, [(s, form(by_step[s])) for s in steps]) for label, form in forms.items()]
