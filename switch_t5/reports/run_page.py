# SPDX-License-Identifier: Apache-2.0
"""The report of a run as a page; of several runs with what they have in common laid over each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from switch_t5.reports import axes, load_map, page, run_content, svg
from switch_t5.reports.axes import Point
from switch_t5.reports.markup import Markup, element, joined
from switch_t5.reports.page import Column
from switch_t5.reports.quantities import count, percent, seconds, size
from switch_t5.reports.run_content import RunContent
from switch_t5.reports.svg import Line

_LINES = len(svg.COLOURS)
_HEAT_MAPS = 24
_LISTED_PIECES = 8
_LISTED_EXPERTS = 64

Series = Sequence[tuple[str, Sequence[Point]]]
# Statistics of the routers: name in the metrics, title, what it is.
_OF_ROUTERS = (
  ("expert_load_max", "Busiest expert", "its load over the mean load; 1 is even"),
  ("fraction_dropped", "Choices dropped", "fraction of the choices that found their expert full"),
  ("dead_experts", "Dead experts", "fraction of the experts that no token of the window chose"),
  ("entropy", "Router entropy", "nats, mean over tokens"),
  ("confidence", "Router confidence", "the greatest probability, mean over tokens"),
)


def render(runs: Sequence[RunContent], refresh: int | None = None) -> str:
  """Returns the page of a run, or of several.

  Args:
    runs: at least one.
    refresh: seconds after which a browser reads the page again; None: it does not.
  """
  if len(runs) == 1:
    return page.document(f"Run {runs[0].name}", *_parts(runs[0]), refresh=refresh)
  articles = (element("article", element("h2", run.name), *_parts(run, level=3)) for run in runs)
  return page.document(f"{len(runs)} runs", *_comparison(runs), *articles, refresh=refresh)


def _parts(run: RunContent, level: int = 2) -> list[Markup]:
  said, is_well = run_content.verdict(run)
  parts = [
    page.paragraph(said, look="verdict good" if is_well else "verdict bad"),
    page.facts(run_content.facts(run)),
  ]

  def add(heading: str, *content: Markup | None) -> None:
    there = [part for part in content if part is not None]
    if there:
      parts.append(page.section(heading, *there, level=level))

  if run.alarms:
    add("Alarms", _alarms(run))
  add("Loss", *_losses(run))
  add("Learning rate and norms", *_training(run))
  add("Speed", *_speed(run))
  add("Experts", *_experts(run))
  add("What each expert takes", *_pieces(run, level))
  add("Tasks", _tasks(run))
  add("Checkpoints", _checkpoints(run))
  add("Starts", _starts(run))
  if run.plan is not None:
    add("Plan", _plan(run))
  add("Configuration", _configuration(run))
  return parts


def _chart(
  title: str, caption: str, series: Series, form: Callable[[float], str] = axes.plain
) -> Markup | None:
  """Returns a picture of lines over the steps, or None if there is nothing to draw."""
  drawn = [Line(label, axes.thin(found)) for label, found in series if found]
  reach = axes.extent(drawn)
  if reach is None:
    return None
  (first, low), (final, high) = reach
  ends = []
  for label, found in series:
    if found:
      ends.append(f"{label} {form(found[-1][1])} at step {found[-1][0]:,.0f}")
  picture = svg.lines(
    title,
    "; ".join(ends),
    drawn,
    x_ticks=axes.marks(axes.ticks(first, final, 8), axes.plain),
    y_ticks=axes.marks(axes.ticks(low, high), form),
  )
  return page.figure(picture, f"{title}: {caption}, over the steps.")


def _losses(run: RunContent) -> list[Markup | None]:
  held_out = run_content.held_out(run.metrics)
  series = [("training", run.metrics.get("train/cross_entropy", ()))]
  series += [(f"held out, {task}", found) for task, found in held_out.items()]
  accuracy = [("training", run.metrics.get("train/accuracy", ()))]
  accuracy += [
    (f"held out, {task}", found)
    for task, found in run_content.held_out(run.metrics, "accuracy").items()
  ]
  auxiliary = [
    (label, run.metrics.get(f"train/{name}", ()))
    for name, label in (
      ("load_balance_loss", "load balance"),
      ("router_z_loss", "router z-loss"),
      ("z_loss", "z-loss of the logits"),
      ("soft_cross_entropy", "cross-entropy with the teacher"),
    )
  ]
  auxiliary = [(label, found) for label, found in auxiliary if any(value for _, value in found)]
  return [
    _chart("Cross-entropy", "nats per target token", series[:_LINES]),
    _chart("Accuracy", "fraction of target tokens that are the likeliest", accuracy[:_LINES]),
    _chart("Other losses", "as they enter the loss", auxiliary),
  ]


def _training(run: RunContent) -> list[Markup | None]:
  return [
    _chart(
      "Learning rate",
      "of the optimizer",
      [("learning rate", run.metrics.get("train/learning_rate", ()))],
    ),
    _chart(
      "Gradient norm",
      "L2, before clipping",
      [("gradient norm", run.metrics.get("train/gradient_norm", ()))],
    ),
  ]


def _speed(run: RunContent) -> list[Markup | None]:
  parts = [
    _chart(
      "Throughput",
      "real tokens of encoder and decoder a second",
      [("tokens a second", run.metrics.get("train/tokens_per_second", ()))],
      count,
    ),
    _chart(
      "Model FLOPs utilisation",
      "the model's FLOPs over the devices' peak",
      [("MFU", run.metrics.get("train/mfu", ()))],
      percent,
    ),
  ]
  total = sum(run.seconds.values())
  if total > 0:
    kinds = sorted(run.seconds.items(), key=lambda item: -item[1])
    rows = [
      svg.Row(
        kind, f"{seconds(time)}, {percent(time / total)}", [svg.Segment(0, time, index % _LINES)]
      )
      for index, (kind, time) in enumerate(kinds)
      if time > 0
    ]
    said = "; ".join(f"{row.label} {row.value}" for row in rows)
    picture = svg.bars("Where the time went", said, rows, full=total)
    parts.append(page.figure(picture, run.goodput or "Where the time went, all starts together."))
  return parts


def _experts(run: RunContent) -> list[Markup | None]:
  parts = [
    _chart(title, what, run_content.spread(run.metrics, name, _LINES))
    for name, title, what in _OF_ROUTERS
  ]
  for router, loads in list(run.loads.items())[:_HEAT_MAPS]:
    if loads.steps:
      caption = (
        f"Load of each expert of {router}. A column for each step that was kept: dense at first, then "
        "ever further apart."
      )
      parts.append(page.figure(load_map.draw(router, loads), caption))
  more = len(run.loads) - _HEAT_MAPS
  if more > 0:
    parts.append(page.paragraph(f"{more} more routers are not drawn.", look="note"))
  return parts


def _pieces(run: RunContent, level: int) -> list[Markup]:
  parts = []
  for router, experts in run.pieces.items():
    whole = sum(expert.tokens for expert in experts) or 1
    rows = [
      (
        index,
        f"{expert.tokens / whole:.1%}",
        *map(_with_shares, (expert.top, expert.own)),
      )
      for index, expert in enumerate(experts[:_LISTED_EXPERTS])
    ]
    caption = f"{router}: what each expert takes"
    if len(experts) > _LISTED_EXPERTS:
      caption += f"; the first {_LISTED_EXPERTS} of {len(experts)} experts"
    columns = (
      Column("expert", True),
      Column("of all tokens", True),
      Column("commonest pieces, of its tokens", is_prose=True),
      Column("pieces of which it takes most", is_prose=True),
    )
    parts.append(page.folded(router, page.table(caption, columns, rows)))
  if parts:
    note = "Counted on held-out text. A piece begins a word where it begins with \N{LOWER ONE EIGHTH BLOCK}."
    parts.insert(0, page.paragraph(note, look="note"))
  return parts


def _with_shares(pieces: Sequence[tuple[str, float]]) -> str:
  return ", ".join(f"{piece} {share:.0%}" for piece, share in pieces[:_LISTED_PIECES])


def _alarms(run: RunContent) -> Markup:
  said = (Column(name, is_prose=True) for name in ("seen", "likely cause", "change"))
  columns = (Column("step", True), *said)
  rows = [(f"{a.step:,}", a.what, a.cause, element("code", a.remedy)) for a in run.alarms]
  return page.table("Alarms, in the order of steps", columns, rows)


def _tasks(run: RunContent) -> Markup | None:
  evaluated = [name for name in run.metrics if name.startswith("eval/")]
  rows = []
  for name in evaluated:
    found = run.metrics.get(name, ())
    least, most = min(found, key=lambda p: p[1]), max(found, key=lambda p: p[1])
    rows.append(
      (
        name.removeprefix("eval/"),
        f"{found[-1][1]:.4g}",
        f"{least[1]:.4g} ({least[0]:,.0f})",
        f"{most[1]:.4g} ({most[0]:,.0f})",
      )
    )
  if not rows:
    return None
  columns = (
    *(Column("metric"), Column("last", True)),
    *(Column("least (step)", True), Column("greatest (step)", True)),
  )
  return page.table("What was evaluated", columns, rows)


def _checkpoints(run: RunContent) -> Markup | None:
  if not run.checkpoints:
    return None
  rows = [
    (f"{c.step:,}", size(c.size), c.committed, "best" if c.is_best else "") for c in run.checkpoints
  ]
  columns = (Column("step", True), Column("size", True), Column("saved"), Column(""))
  return page.table("Checkpoints that are there", columns, rows)


def _starts(run: RunContent) -> Markup | None:
  if not run.starts:
    return None
  columns = (
    *(Column("time"), Column("from step", True), Column("devices"), Column("mesh")),
    Column("processes", True),
  )
  rows = [
    (
      start.get("time", ""),
      f"{start.get('step', 0):,}",
      start.get("devices", ""),
      ", ".join(f"{axis} {n}" for axis, n in start.get("mesh", {}).items()),
      start.get("processes", 1),
    )
    for start in run.starts
  ]
  return page.table("Starts of the run", columns, rows)


def _plan(run: RunContent) -> Markup:
  plan = run.plan or {}
  memory, time = plan["memory"], plan["time"]
  named = {
    "topology": plan["place"]["topology"],
    "memory of a device": f"{size(memory['total'])} of {size(memory['limit'])}",
    "time of a step, estimated": seconds(time["step"]),
  }
  return page.facts(named)


def _configuration(run: RunContent) -> Markup | None:
  if not run.config:
    return None
  return page.folded("config.gin", element("pre", run.config))


def _comparison(runs: Sequence[RunContent]) -> list[Markup]:
  """Returns the runs over each other, and how they differ."""
  rows = [
    (
      run.name,
      f"{run_content.last_step(run.metrics):,}",
      _shown(run_content.last(run.metrics, "train/cross_entropy")),
      ", ".join(f"{found[-1][1]:.4f}" for found in run_content.held_out(run.metrics).values()),
      _shown(run_content.last(run.metrics, "train/fraction_dropped"), ".1%"),
      _shown(run_content.last(run.metrics, "train/tokens_per_second"), ",.0f"),
      len(run.alarms),
    )
    for run in runs
  ]
  columns = (
    *(Column("run"), Column("step", True), Column("training, nats", True)),
    *(Column("held out, nats", True), Column("dropped", True), Column("tokens/s", True)),
    Column("alarms", True),
  )
  parts = [page.table("The runs at their last step", columns, rows)]
  charts = (
    ("train/cross_entropy", "Cross-entropy in training", "nats per target token"),
    ("train/expert_load_max", "Busiest expert", "its load over the mean load"),
    ("train/fraction_dropped", "Choices dropped", "fraction of the choices"),
    ("train/tokens_per_second", "Throughput", "real tokens a second"),
  )
  held_out = [
    (run.name, found)
    for run in runs
    for found in list(run_content.held_out(run.metrics).values())[:1]
  ]
  drawn = [_chart("Cross-entropy held out", "nats per target token", held_out[:_LINES])]
  for name, title, what in charts:
    series = [(run.name, run.metrics.get(name, ())) for run in runs]
    drawn.append(_chart(title, what, series[:_LINES]))
  parts += [part for part in drawn if part is not None]
  if len(runs) > _LINES:
    parts.append(page.paragraph(f"Drawn are the first {_LINES} of {len(runs)} runs.", look="note"))
  differing = run_content.differences([run.config for run in runs])
  if differing:
    headings = [Column("setting"), *(Column(run.name) for run in runs)]
    settings = [(name, *values) for name, values in differing]
    parts.append(page.table("Settings that differ", headings, settings))
  return [page.section("Compared", joined(*parts))]


def _shown(value: float | None, form: str = ".4f") -> str:
  return "" if value is None else f"{value:{form}}"
