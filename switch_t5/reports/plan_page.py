# SPDX-License-Identifier: Apache-2.0
"""A plan as a page, or several of them side by side."""

from __future__ import annotations

from collections.abc import Sequence

from switch_t5.reports import page, plan_content, svg
from switch_t5.reports.markup import Markup, element, joined
from switch_t5.reports.page import Column
from switch_t5.reports.plan_content import Content, Traffic
from switch_t5.reports.quantities import count, gigabytes, percent, seconds, size

_TRAFFIC = (
  *(Column("collective"), Column("over"), Column("phase"), Column("stack")),
  Column("times x bytes each", True),
  *(Column("a step", True), Column("least", True), Column("more than that", True)),
  Column("network"),
)


def render(content: Content | Sequence[Content]) -> str:
  """Returns a page of one plan, or of several with a comparison above them.

  Args:
    content: what `Plan.as_json` returns, or several of them.
  """
  if not isinstance(content, Sequence):
    return page.document(f"Plan: {plan_content.title(content)}", *_parts(content, level=2))
  plans = (
    element("article", element("h2", plan_content.title(plan)), *_parts(plan, level=3))
    for plan in content
  )
  return page.document(f"{len(content)} plans", _comparison(content), *plans)


def _parts(content: Content, level: int) -> list[Markup]:
  """Returns the sections of a plan."""
  look = "verdict good" if content["memory"]["fits"] else "verdict bad"
  parts = [
    page.paragraph(plan_content.verdict(content), look=look),
    page.facts(plan_content.settings(content)),
  ]
  if content["advice"]:
    parts.append(page.section("Advice", page.bullets(content["advice"]), level=level))
  parts.append(page.section("Memory of a device", _memory(content), level=level))
  parts.append(page.section("Time of a step", _time(content), level=level))
  parts.append(page.section("Figures", page.facts(plan_content.figures(content)), level=level))
  parts.append(page.section("Between devices", _traffic(content), level=level))
  if content["candidates"]:
    parts.append(page.section("Layouts that were looked at", _candidates(content), level=level))
  parts.append(page.paragraph(plan_content.made_by(content), look="note"))
  return parts


def _memory(content: Content) -> Markup:
  """Returns the memory by kind, each bar where the one above it ends."""
  memory, chip = content["memory"], content["place"]["chip"]
  kinds = plan_content.memory_kinds(content)
  total, limit = memory["total"], memory["limit"]
  is_small = total < limit / 20  # nothing could be told apart
  segments, start = [], 0
  for index, number in enumerate(kinds.values()):
    segments.append(svg.Segment(start, number, index % len(svg.COLOURS)))
    start += number
  rows = [svg.Row("all", gigabytes(total), segments)] + [
    svg.Row(name, size(number), [segment])
    for (name, number), segment in zip(kinds.items(), segments, strict=True)
  ]
  picture = svg.bars(
    "Memory of a device by kind",
    "; ".join(f"{row.label} {row.value}" for row in rows) + f"; the chip has {gigabytes(limit)}",
    rows,
    full=max(total, start) or 1 if is_small else max(total, limit, start),
    mark=None if is_small else svg.Mark(limit, f"{chip}: {gigabytes(limit)}"),
  )
  source = "The compiler's count" if memory["exact"] else "An estimate"
  caption = f"{source}. Each kind begins where the one above it ends."
  if is_small:
    caption += f" The {gigabytes(limit)} of a {chip} device are far beyond the right end."
  return page.figure(picture, caption)


def _time(content: Content) -> Markup:
  """Returns the roofline: what each part would take alone."""
  step, bound = content["time"]["step"], content["time"]["bound"]
  parts = plan_content.times(content)
  rows = [svg.Row("step, estimated", seconds(step), [svg.Segment(0, step, 6)])]
  for name, number in parts.items():
    label = f"{name}: the bound" if name == bound else name
    rows.append(svg.Row(label, seconds(number), [svg.Segment(0, number, int(name == bound))]))
  picture = svg.bars(
    "What each part of a device would take alone",
    "; ".join(f"{row.label} {row.value}" for row in rows),
    rows,
    full=max([step, *parts.values()]) or 1.0,
  )
  return page.figure(
    picture,
    "Peak speeds of the chip's data sheet, so a step takes at least this. "
    "Networks are added to compute: a compiler hides only part of them.",
  )


def _traffic(content: Content) -> Markup:
  """Returns the table of collectives beside the least that the layout needs."""
  traffic = plan_content.traffic(content)
  if not traffic:
    return page.paragraph("Nothing crosses devices.")
  if not content["collectives"]:
    columns = [*_TRAFFIC[:5], Column("least", True), Column("network")]
    rows = [(*_described(row), size(row.least or 0), _network(row)) for row in traffic]
    caption = "The least that the layout needs: operands of one device in a step."
    return page.table(caption, columns, rows)
  compared = [
    (
      *_described(row),
      size(row.total or 0),
      "–" if row.least is None else size(row.least),
      size(row.excess) if row.excess else "",
      _network(row),
    )
    for row in traffic
  ]
  caption = "Operands of one device in a step. Marked: more than the layout needs."
  marked = [index for index, row in enumerate(traffic) if row.excess]
  return page.table(caption, _TRAFFIC, compared, marked)


def _described(row: Traffic) -> tuple[str, ...]:
  return (row.name, row.axes, row.phase, row.where or "–", row.each)


def _network(row: Traffic) -> str:
  return "slow" if row.slow else "fast"


def _candidates(content: Content) -> Markup:
  columns = [
    Column(name, name in ("microbatches", "memory", "step"))
    for name in plan_content.CANDIDATE_COLUMNS
  ]
  rows = plan_content.candidates(content)
  left_out = len(content["candidates"]) - len(rows)
  caption = "The best first: what fits, by its estimated step."
  caption += f" {left_out} more are in the JSON." if left_out else ""
  return page.table(caption, columns, rows)


def _comparison(plans: Sequence[Content]) -> Markup:
  """Returns a table with a row for each plan, and a picture of their memory."""
  columns = [
    Column("plan"),
    Column("mesh"),
    Column("devices", True),
    Column("memory", True),
    Column("of", True),
    Column(""),
    Column("step", True),
    Column("bound by"),
    Column("tokens a second", True),
    Column("utilisation", True),
  ]
  rows, bars = [], []
  for plan in plans:
    memory, time, name = plan["memory"], plan["time"], plan_content.title(plan)
    rows.append(
      (
        *(
          name,
          f"({', '.join(map(str, plan['place']['mesh'].values()))})",
          f"{plan['place']['devices']:,}",
        ),
        *(gigabytes(memory["total"]), gigabytes(memory["limit"])),
        "fits" if memory["fits"] else "too large",
        *(seconds(time["step"]), time["bound"], f"{time['tokens_per_second']:,.0f}"),
        percent(time["model_flops_utilization"]),
      )
    )
    share = memory["total"] / memory["limit"]
    segment = svg.Segment(0, share, 0 if memory["fits"] else 5)
    label = f"{count(plan['work']['parameters'])}, {plan['place']['topology']}"  # for a telephone
    bars.append(svg.Row(label, percent(share), [segment]))
  picture = svg.bars(
    "Memory of a device, as part of what its chip has",
    "; ".join(f"{bar.label} {bar.value}" for bar in bars),
    bars,
    full=max(1.0, *(bar.segments[0].length for bar in bars)),
    mark=svg.Mark(1.0, "what the chip has"),
  )
  return joined(
    page.table("The plans side by side", columns, rows),
    page.figure(picture, "Longer than the line does not fit."),
  )
