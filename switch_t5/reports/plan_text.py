# SPDX-License-Identifier: Apache-2.0
"""A plan on the terminal: at most 60 lines of 100 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping

from switch_t5.reports import plan_content
from switch_t5.reports.plan_content import Content
from switch_t5.reports.quantities import seconds, size

WIDTH, HEIGHT = 100, 60
_BAR = 40
# Lines of the parts that can be long; what they leave out is in the page and the JSON.
_SETTINGS, _ADVICE, _TRAFFIC, _CANDIDATES = 4, 8, 9, 6


def render(content: Content) -> str:
  """Returns the plan as lines, the verdict first."""
  described = (
    plan_content.title(content)
    + ": "
    + "; ".join(f"{name} {value}" for name, value in plan_content.settings(content).items())
  )
  parts = [
    [*_wrapped(plan_content.verdict(content)), *_cut(_wrapped(described), _SETTINGS)],
    _cut([line for sentence in content["advice"] for line in _wrapped(sentence, "- ")], _ADVICE),
    _bars("Memory of a device", plan_content.memory_kinds(content), size),
    _bars(f"Step, estimated: {_step(content)}", plan_content.times(content), seconds),
    [f"{name:<28}{value}" for name, value in plan_content.figures(content).items()],
    _cut(_traffic(content), _TRAFFIC),
    _cut(_candidates(content), _CANDIDATES),
    [plan_content.made_by(content)],
  ]
  return "\n\n".join("\n".join(line[:WIDTH].rstrip() for line in part) for part in parts if part)


def _step(content: Content) -> str:
  return f"{seconds(content['time']['step'])}, bound by {content['time']['bound']}"


def _bars(heading: str, values: Mapping[str, float], write: Callable[[float], str]) -> list[str]:
  """Returns a line for each value, the largest over the whole width."""
  largest = max(values.values(), default=0) or 1
  return [heading] + [
    f"  {name:<20}{write(value):>10}  {'#' * round(_BAR * value / largest)}"
    for name, value in values.items()
  ]


def _traffic(content: Content) -> list[str]:
  """Returns the collectives beside their bounds, marked with ! where they are above it."""
  traffic = plan_content.traffic(content)
  if not traffic:
    return ["Nothing crosses devices."]
  heading = ("Between devices", "over", "phase", "stack", "a step", "least", "")
  rows = [
    (
      *(row.name, row.axes, row.phase, row.where),
      *("-" if number is None else size(number) for number in (row.total, row.least)),
      " ".join(["slow"] * row.slow + [f"! {size(row.excess)} more"] * bool(row.excess)),
    )
    for row in traffic
  ]
  return [
    f"{kind:<20}{axes:<18}{phase:<10}{where:<9}{total:>9}{least:>9}  {remark}"
    for kind, axes, phase, where, total, least, remark in [heading, *rows]
  ]


def _candidates(content: Content) -> list[str]:
  """Returns the layouts of a search, the best first."""
  rows = plan_content.candidates(content)
  return [
    f"{mesh:<16}{sharding:<12}{parts:>12}  {remat:<10}{memory:>9}{step:>9}  {fits:<10}{source}"
    for mesh, sharding, parts, remat, memory, step, fits, source in (
      [plan_content.CANDIDATE_COLUMNS, *rows] if rows else []
    )
  ]


def _cut(lines: list[str], most: int) -> list[str]:
  """Returns the first lines, and how many there would be more."""
  if len(lines) <= most:
    return lines
  return [*lines[: most - 1], f"  ... {len(lines) - most + 1} more lines: see the page or the JSON"]


def _wrapped(text: str, bullet: str = "") -> list[str]:
  return textwrap.wrap(
    text, WIDTH, initial_indent=bullet, subsequent_indent=" " * len(bullet), break_long_words=True
  )
