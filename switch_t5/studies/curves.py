# SPDX-License-Identifier: Apache-2.0
"""What a study reads from the metrics of a run: its quality, its pace, when it was as good as another."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

Point = tuple[float, float]


class Run(NamedTuple):
  """A run of a study, as plain values.

  Attributes:
    arm: name of its arm.
    seed: of it.
    steps: TRAIN_STEPS.
    task: name of what it learns.
    metrics: (step, value) by public name, in the order of steps.
    facts: numbers that follow from its configuration: see `cli/study_runs.py`.
    diverged: where and how; None if it did not.
  """

  arm: str
  seed: int
  steps: int
  task: str
  metrics: Mapping[str, Sequence[Point]]
  facts: Mapping[str, float] = {}
  diverged: str | None = None


def points(run: Run, name: str) -> Sequence[Point]:
  """Returns a metric by its public name; `router/*/STATISTIC` is the mean over the routers."""
  every, _, statistic = name.rpartition("/")
  if every != "router/*":
    return run.metrics.get(name, ())
  return mean_curve(_of_routers(run, "router/", statistic))


def held_out(run: Run) -> list[Point]:
  """Returns (step, negative log perplexity on the validation split, nats per target token)."""
  found = run.metrics.get(f"eval/{run.task}/cross_entropy", ())
  return [(step, -value) for step, value in found]


def quality(run: Run) -> float | None:
  """Returns the negative log perplexity at the last step; None if it was not reached."""
  return dict(held_out(run)).get(run.steps)


def reached(curve: Sequence[Point], level: float) -> float | None:
  """Returns the step at which a curve first is at a level, between two points by a straight line.

  Args:
    curve: (step, value), better if higher.
    level: a value.

  Returns:
    The step; that of the first point if it is there already; None if it never is.
  """
  if curve and curve[0][1] >= level:
    return curve[0][0]
  for (step, value), (later, better) in itertools.pairwise(curve):
    if better >= level:
      return step + (later - step) * (level - value) / (better - value)
  return None


def tokens_per_second(run: Run) -> float | None:
  """Returns the median over log windows, so that a busy minute of the machine does not count."""
  rates = [rate for _, rate in run.metrics.get("train/tokens_per_second", ())]
  return statistics.median(rates) if rates else None


def speed_up_in_steps(run: Run, base: Run) -> float | None:
  """Returns the base's steps over those until its last quality (paper, section 3.1, Fig. 4)."""
  level = quality(base)
  step = None if level is None else reached(held_out(run), level)
  return base.steps / step if step else None


def speed_up_in_time(run: Run, base: Run) -> float | None:
  """Returns the same in training time, each run at its own pace (paper, section 3.2, Fig. 5)."""
  steps = speed_up_in_steps(run, base)
  own, other = tokens_per_second(run), tokens_per_second(base)
  # Both read the same rows, so that tokens a second are steps a second.
  return steps * own / other if steps and own and other else None


def late(run: Run, name: str, part: float = 0.25) -> float | None:
  """Returns the mean of a metric over the last part of a run's steps."""
  values = [value for step, value in points(run, name) if step > (1 - part) * run.steps]
  return statistics.fmean(values) if values else None


def greatest(run: Run, name: str) -> float | None:
  """Returns the greatest value of a metric."""
  return max((value for _, value in points(run, name)), default=None)


def of_encoder(run: Run, statistic: str) -> float | None:
  """Returns a statistic of the encoder's routers, mean over them and over the log windows."""
  curves = _of_routers(run, "router/encoder/", statistic)
  values = [value for curve in curves for _, value in curve]
  return statistics.fmean(values) if values else None


def _of_routers(run: Run, beginning: str, statistic: str) -> list[Sequence[Point]]:
  """Returns a statistic of each router whose metrics' names begin so."""
  return [
    found
    for name, found in run.metrics.items()
    if name.startswith(beginning) and name.endswith(f"/{statistic}")
  ]


def mean_curve(curves: Sequence[Sequence[Point]]) -> list[Point]:
  """Returns the mean of curves at the steps that all of them have and where all are finite."""
  if not curves:
    return []
  found = [dict(curve) for curve in curves]
  steps = sorted(set(found[0]).intersection(*found[1:]))
  means = ((step, statistics.fmean(curve[step] for curve in found)) for step in steps)
  return [(step, value) for step, value in means if math.isfinite(value)]
