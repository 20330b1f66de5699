# SPDX-License-Identifier: Apache-2.0
"""A sweep: trials over settings of the user's, of which after each rung the better half goes on.

Successive halving (Jamieson & Talwalkar 2016, by halves): a *rung* is a number of steps that all trials
that are left train up to.
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from switch_t5.reports.intervals import Entry
from switch_t5.reports.study_page import Chart, StudyContent, Table
from switch_t5.studies.curves import Run, held_out, mean_curve, quality
from switch_t5.studies.family import (
  QUALITY_CURVE,
  Family,
  Outcome,
  Runs,
  mean_and_sd,
  shown,
  words,
)
from switch_t5.studies.paired import CONFIDENCE, Interval, mean_interval

Settings = dict[str, Any]  # by name of the binding


class Range(NamedTuple):
  """Numbers between two, ends included; whole ones if both ends are."""

  low: float
  high: float

  def draw(self, source: random.Random) -> float:
    """Returns one of them: even in the logarithm if both ends are above 0."""
    if self.low > 0:
      value = math.exp(source.uniform(math.log(self.low), math.log(self.high)))
    else:
      value = source.uniform(self.low, self.high)
    if isinstance(self.low, int) and isinstance(self.high, int):
      return round(value)
    return float(f"{value:.4g}")  # as it is shown


class Rung(NamedTuple):
  """So many trials train up to so many steps."""

  trials: int
  steps: int


def grid(varied: Mapping[str, Sequence[Any]]) -> list[Settings]:
  """Returns all combinations, the last name's values varying fastest."""
  return [dict(zip(varied, values, strict=True)) for values in itertools.product(*varied.values())]


def drawn(varied: Mapping[str, Sequence[Any] | Range], count: int) -> list[Settings]:
  """Returns `count` combinations at random, always the same ones."""
  source = random.Random(0)
  return [
    {
      name: values.draw(source) if isinstance(values, Range) else source.choice(values)
      for name, values in varied.items()
    }
    for _ in range(count)
  ]


def rungs(trials: int, steps: int) -> list[Rung]:
  """Returns the rungs: half of the steps for twice the trials, and two or three at the end.

  Args:
    trials: how many begin.
    steps: of those that reach the end.
  """
  halvings = max(0, min((trials // 2).bit_length() - 1, steps.bit_length() - 1))
  found = []
  for halving in range(halvings + 1):
    found.append(Rung(trials, steps // 2 ** (halvings - halving)))
    trials = -(-trials // 2)
  return found


def ranked(runs: Runs) -> list[str]:
  """Returns the arms, the best first: who came further, then who is better; the diverged last."""

  def place(arm: str) -> tuple[float, float]:
    found = _mean_quality(runs[arm])
    return (-1, 0) if found is None else (runs[arm][0].steps, found)

  return sorted(runs, key=place, reverse=True)


def outcome(family: Family, title: str, runs: Runs, settings: Mapping[str, Settings]) -> Outcome:
  """Returns the trials, the best first.

  Args:
    family: whose arms the trials are.
    title: of the table.
    runs: by arm; each run's `steps` are those that its trial reached.
    settings: by arm.
  """
  order = ranked(runs)
  best, seeds = order[0], len(runs[order[0]])
  behind = {arm: _behind(runs[arm], runs[best]) for arm in order}
  gaps = {arm: mean_interval(values) if len(values) > 1 else None for arm, values in behind.items()}
  titles = {arm.name: arm.title for arm in family.arms}
  names = list(settings[best])
  rows = []
  for arm in order:
    found = [value for run in runs[arm] if (value := quality(run)) is not None]
    cells = [f"{settings[arm][name]}" for name in names]
    cells += [f"{runs[arm][0].steps:,}", mean_and_sd(found, ".4f") if found else "diverged"]
    rows.append([arm, *cells, "" if arm == best else _gap(behind[arm], gaps[arm])])
  headings = ["", *names, "steps", "quality", "against the best, at the same step"]
  curves = [(titles[arm], mean_curve([held_out(run) for run in runs[arm]])) for arm in order]
  content = StudyContent(
    title,
    [Table(title, headings, rows)],
    [*_sentences(seeds), *_diverged(runs)],
    [Chart(*QUALITY_CURVE[1:], curves)],
  )
  entries = [
    Entry(titles[arm], behind[arm], *(gaps[arm] or (statistics.fmean(behind[arm]), None, None)))
    for arm in order
    if behind[arm]
  ]
  return Outcome(
    content,
    {"confidence": CONFIDENCE, "best": best, "trials": _as_json(order, runs, settings, gaps)},
    entries,
    "quality: difference from the best trial at the same step, nats per target token",
  )


def _mean_quality(runs: Sequence[Run]) -> float | None:
  found = [value for run in runs if (value := quality(run)) is not None]
  return statistics.fmean(found) if len(found) == len(runs) else None


def _behind(runs: Sequence[Run], best: Sequence[Run]) -> list[float]:
  """Returns the differences from the best trial, seed by seed, at the steps that a trial reached."""
  pairs = (
    (quality(run), dict(held_out(other)).get(run.steps))
    for run, other in zip(runs, best, strict=True)
  )
  return [own - other for own, other in pairs if own is not None and other is not None]


def _gap(behind: Sequence[float], interval: Interval | None) -> str:
  if interval is not None:
    return f"{shown(interval, '+.4f')}, {words(interval, 1)}"
  return f"{behind[0]:+.4f}, one seed" if behind else ""


def _sentences(seeds: int) -> list[str]:
  said = (
    "Quality is the negative log perplexity on the validation split, in nats per target token: higher is better. "
    "After each rung the better half of the trials went on; a trial is compared with the best one at the step where "
    "it stopped. All trials of a seed read the same rows, unless the settings change them."
  )
  if seeds == 1:
    return [f"{said} There is one seed, so nothing says what is noise: --seeds=3 does."]
  return [
    f"{said} Means over {seeds} seeds; in brackets {CONFIDENCE:.0%} intervals (Student's t) of the differences. "
    "The best of many trials is in part a lucky one: its lead is smaller than it looks."
  ]


def _diverged(runs: Runs) -> list[str]:
  return [
    f"{run.arm}, seed {run.seed}, diverged: {run.diverged}"
    for of_arm in runs.values()
    for run in of_arm
    if run.diverged is not None
  ]


def _as_json(
  order: Sequence[str],
  runs: Runs,
  settings: Mapping[str, Settings],
  gaps: Mapping[str, Interval | None],
) -> list[dict[str, Any]]:
  found = []
  for arm in order:
    gap = gaps[arm]
    found.append(
      {
        "trial": arm,
        "settings": {name: str(value) for name, value in settings[arm].items()},
        "steps": runs[arm][0].steps,
        "qualities": [quality(run) for run in runs[arm]],
        "against_the_best": None if gap is None else gap._asdict(),
        "diverged": {run.seed: run.diverged for run in runs[arm] if run.diverged},
      }
    )
  return found
