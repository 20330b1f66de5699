# SPDX-License-Identifier: Apache-2.0
"""What a study is: arms that differ in what it asks about, what is measured of each, and its table.

All arms of a seed read the same rows in the same order, so differences are taken seed by seed, and their
interval is that of paired values. A run that diverged is said to have, and the others are compared.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from switch_t5.reports.axes import Point
from switch_t5.reports.intervals import Entry
from switch_t5.reports.study_page import Chart, StudyContent, Table
from switch_t5.studies.curves import (
  Run,
  held_out,
  mean_curve,
  points,
  quality,
  speed_up_in_steps,
  speed_up_in_time,
  tokens_per_second,
)
from switch_t5.studies.paired import CONFIDENCE, Interval, mean_interval

SIZES = ("test", "laptop", "pod")


class Arm(NamedTuple):
  """One way to train, a row of the table.

  Attributes:
    name: of its folders and in JSON.
    title: in the table.
    model: its gin file, {size} for the study's size; None: the command line's files are all.
    files: gin files after it.
    bindings: gin text, what is the arm's own.
    paths: macros that are the MODEL_DIR of another arm of the same seed, which is trained first.
    timed_as: an arm whose steps take as long; None: its own are timed.
    paper: the paper's numbers, by name of the measure, as they are shown.
  """

  name: str
  title: str
  model: str | None = "studies/switch_{size}.gin"
  files: tuple[str, ...] = ()
  bindings: tuple[str, ...] = ()
  paths: tuple[tuple[str, str], ...] = ()
  timed_as: str | None = None
  paper: Mapping[str, str] = {}


class Measure(NamedTuple):
  """What is measured of a run, a column of the table.

  Attributes:
    name: in JSON.
    heading: in the table.
    of: of a run, given the base arm's run of the same seed; None if there is nothing to measure.
    form: of the number.
    compared: whether a column has the differences from the base arm.
    better: +1 where more is better, -1 where less is, 0 where neither is.
    absent: what is shown where there is nothing to measure.
    interval: whether the mean has its interval, in place of the standard deviation.
  """

  name: str
  heading: str
  of: Callable[[Run, Run], float | None]
  form: str = ".4f"
  compared: bool = False
  better: int = 1
  absent: str = ""
  interval: bool = False


class Beside(NamedTuple):
  """What a study says beside its table."""

  sentences: Sequence[str] = ()
  tables: Sequence[Table] = ()
  charts: Sequence[Chart] = ()
  content: Mapping[str, Any] = {}


class Outcome(NamedTuple):
  """What a study found.

  Attributes:
    content: tables, sentences and curves.
    json: the same for machines.
    entries: of the picture: differences from the base arm.
    axis: what these are.
  """

  content: StudyContent
  json: dict[str, Any]
  entries: Sequence[Entry]
  axis: str


Runs = Mapping[str, Sequence[Run]]  # by arm, in the order of seeds
QUALITY = Measure(
  "quality", "quality", lambda run, base: quality(run), compared=True, absent="diverged"
)
# Over the base: its steps, or time, over those after which an arm is as good as it at its end.
SPEED = (
  Measure(
    "steps", "speed-up in steps", speed_up_in_steps, ".2f", absent="not reached", interval=True
  ),
  Measure("time", "speed-up in time", speed_up_in_time, ".2f", absent="not reached", interval=True),
  Measure("tokens", "tokens/s", lambda run, base: tokens_per_second(run), ",.0f"),
)

QUALITY_CURVE = (
  "",
  "Quality",
  "negative log perplexity held out, nats per target token, over the steps",
)


class Family(NamedTuple):
  """A study.

  Attributes:
    name: on the command line and of its files.
    title: of its table.
    arms: in the order in which they are trained.
    base: the arm that others are compared with.
    measures: columns; the picture is of the first that is compared.
    curves: (metric of a run, or "" for its quality; title; caption), of the page.
    beside: what else follows from the runs.
    seeds: how many, by size.
    outcome: makes table and page in place of `outcome`: of title, runs and parameters by arm.
  """

  name: str
  title: str
  arms: tuple[Arm, ...]
  base: str
  measures: tuple[Measure, ...] = (QUALITY,)
  curves: tuple[tuple[str, str, str], ...] = (QUALITY_CURVE,)
  beside: Callable[[Runs], Beside] = lambda runs: Beside()
  seeds: Mapping[str, int] = {"test": 2, "laptop": 3, "pod": 3}
  outcome: Callable[[str, Runs], Outcome] | None = None

  def arm(self, name: str) -> Arm:
    """Returns the arm of that name."""
    return next(arm for arm in self.arms if arm.name == name)

  @property
  def own(self) -> set[str]:
    """What the study sets itself, and the command line may not."""
    bound = {text.partition("=")[0].strip() for arm in self.arms for text in arm.bindings}
    return {"MODEL_DIR", "SEED"} | bound | {macro for arm in self.arms for macro, _ in arm.paths}


class Cell(NamedTuple):
  """A measure of an arm: the values of the seeds that have one, and the mean difference from the base."""

  values: list[float]
  difference: Interval | None
  differences: list[float]


def outcome(family: Family, title: str, runs: Runs) -> Outcome:
  """Returns the table of a study and what follows from it.

  Args:
    family: the study.
    title: with its size.
    runs: of every arm, those of the same seeds.
  """
  if family.outcome is not None:
    return family.outcome(title, runs)
  cells = {
    arm.name: {measure.name: _cell(family, measure, runs, arm) for measure in family.measures}
    for arm in family.arms
  }
  beside = family.beside(runs)
  seeds = len(runs[family.base])
  sentences = [*_explanation(family, seeds), *_diverged(family, runs), *beside.sentences]
  content = StudyContent(
    title,
    [_table(family, title, cells, runs), *beside.tables],
    sentences,
    [*_charts(family, runs), *beside.charts],
  )
  compared = next(measure for measure in family.measures if measure.compared)
  entries = list(_entries(family, compared, cells))
  axis = f"{compared.heading}: difference from {family.arm(family.base).title}, same seed"
  found = {"confidence": CONFIDENCE, "base": family.base, "arms": _as_json(family, cells, runs)}
  return Outcome(content, found | dict(beside.content), entries, axis)


def words(interval: Interval, better: int) -> str:
  """Returns what an interval of differences says."""
  if not interval.is_clear_of_zero:
    return "inside the noise"
  if better == 0:
    return "clear of the noise"
  return "better" if interval.estimate * better > 0 else "worse"


def shown(interval: Interval, form: str) -> str:
  """Returns an estimate and the ends of its interval."""
  return f"{interval.estimate:{form}} ({interval.low:{form}} to {interval.high:{form}})"


def mean_and_sd(values: Sequence[float], form: str) -> str:
  """Returns the mean of seeds, and their standard deviation if they differ."""
  mean = f"{statistics.fmean(values):{form}}"
  if len(set(values)) < 2:
    return mean
  return f"{mean} \N{PLUS-MINUS SIGN} {statistics.stdev(values):{form}}"


def arm_curves(
  family: Family, runs: Runs, curve: Callable[[Run], Sequence[Point]]
) -> list[tuple[str, list[Point]]]:
  """Returns a curve of each arm, the mean over its seeds, with the arm's title."""
  return [
    (arm.title, mean_curve([found for run in runs[arm.name] if (found := curve(run))]))
    for arm in family.arms
  ]


def _cell(family: Family, measure: Measure, runs: Runs, arm: Arm) -> Cell:
  values, differences = [], []
  for run, base in zip(runs[arm.name], runs[family.base], strict=True):
    value, other = measure.of(run, base), measure.of(base, base)
    if value is not None:
      values.append(value)
    if value is not None and other is not None and arm.name != family.base:
      differences.append(value - other)
  is_compared = measure.compared and len(differences) > 1
  interval = mean_interval(differences) if is_compared else None
  return Cell(values, interval, differences)


def _table(
  family: Family, title: str, cells: Mapping[str, Mapping[str, Cell]], runs: Runs
) -> Table:
  quoted = [m for m in family.measures if any(m.name in arm.paper for arm in family.arms)]
  headings = ["", *(f"paper: {measure.heading}" for measure in quoted)]
  for measure in family.measures:
    headings.append(measure.heading)
    if measure.compared:
      headings.append(f"against {family.arm(family.base).title}")
  rows = []
  for arm in family.arms:
    row = [arm.title, *(arm.paper.get(measure.name, "") for measure in quoted)]
    for measure in family.measures:
      cell = cells[arm.name][measure.name]
      row.append(_shown_values(measure, cell, len(runs[arm.name])))
      if measure.compared:
        row.append(_shown_difference(measure, cell))
    rows.append(row)
  return Table(title, headings, rows)


def _shown_values(measure: Measure, cell: Cell, seeds: int) -> str:
  if not cell.values:
    return measure.absent
  text = mean_and_sd(cell.values, measure.form)
  if measure.interval and len(set(cell.values)) > 1:
    text = shown(mean_interval(cell.values), measure.form)
  missing = seeds - len(cell.values)
  return f"{text}; {missing} of {seeds} {measure.absent}" if missing and measure.absent else text


def _shown_difference(measure: Measure, cell: Cell) -> str:
  form = f"+{measure.form}"
  if cell.difference is not None:
    return f"{shown(cell.difference, form)}, {words(cell.difference, measure.better)}"
  return f"{cell.differences[0]:{form}}, one seed" if cell.differences else ""


def _explanation(family: Family, seeds: int) -> list[str]:
  base = family.arm(family.base).title
  named = [measure.heading for measure in family.measures if measure.interval]
  intervals = f" In brackets behind {' and '.join(named)}: the same intervals." if named else ""
  return [
    f"Means over {seeds} seeds with the standard deviation between them; differences are from {base} with "
    f"the same seed, rows and steps, in brackets {CONFIDENCE:.0%} intervals (Student's t). A difference whose "
    "interval holds 0 is inside the noise. Quality is the negative log perplexity on the validation split, in "
    "nats per target token: higher is better." + intervals
  ]


def _diverged(family: Family, runs: Runs) -> list[str]:
  return [
    f"{arm.title}, seed {run.seed}, diverged: {run.diverged}"
    for arm in family.arms
    for run in runs[arm.name]
    if run.diverged is not None
  ]


def _charts(family: Family, runs: Runs) -> Iterator[Chart]:
  for metric, title, caption in family.curves:

    def curve(run: Run, metric: str = metric) -> Sequence[Point]:
      return points(run, metric) if metric else held_out(run)

    series = arm_curves(family, runs, curve)
    yield Chart(title, f"{caption}, mean over seeds", series)
    if not metric:
      yield _lead(family, runs)


def _lead(family: Family, runs: Runs) -> Chart:
  """Returns how far each arm is ahead of the base, seed by seed, over the steps."""

  def ahead(run: Run) -> list[Point]:
    base = {
      step: value
      for other in runs[family.base]
      if other.seed == run.seed
      for step, value in held_out(other)
    }
    return [(step, value - base[step]) for step, value in held_out(run) if step in base]

  base = family.arm(family.base).title
  caption = (
    "of quality from the same seed's, nats per target token, over the steps, mean over seeds"
  )
  return Chart(f"Difference from {base}", caption, arm_curves(family, runs, ahead))


def _entries(
  family: Family, measure: Measure, cells: Mapping[str, Mapping[str, Cell]]
) -> Iterator[Entry]:
  for arm in family.arms:
    cell = cells[arm.name][measure.name]
    if cell.differences:
      mean, low, high = cell.difference or (statistics.fmean(cell.differences), None, None)
      yield Entry(arm.title, cell.differences, mean, low, high)


def _as_json(
  family: Family, cells: Mapping[str, Mapping[str, Cell]], runs: Runs
) -> dict[str, dict[str, Any]]:
  found: dict[str, dict[str, Any]] = {}
  for arm in family.arms:
    of_arm: dict[str, Any] = {}
    for measure in family.measures:
      values, difference, _ = cells[arm.name][measure.name]
      of_arm[measure.name] = {"values": values}
      if values:
        of_arm[measure.name]["mean"] = statistics.fmean(values)
      if measure.interval and len(values) > 1:
        of_arm[measure.name]["interval"] = mean_interval(values)._asdict()
      if difference is not None:
        said = {"inside_the_noise": not difference.is_clear_of_zero}
        of_arm[measure.name]["difference"] = difference._asdict() | said
    of_arm["facts"] = dict(runs[arm.name][0].facts)
    of_arm["diverged"] = {run.seed: run.diverged for run in runs[arm.name] if run.diverged}
    found[arm.name] = of_arm | {"paper": dict(arm.paper)}
  return found
