# SPDX-License-Identifier: Apache-2.0
"""What became of a fault that a drill inflicted: a line of the table that all drills end with."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable
from typing import NamedTuple

import runs
from bad_data import ROWS

NOTHING = "-"


class Outcome(NamedTuple):
  """How often a fault was inflicted, and what of a run's promises held.

  Attributes:
    fault: what was done.
    tries: how often.
    detected: how often it was said, by name, or survived where there is nothing to say.
    steps_lost: at most, in one try.
    examples: rows that were trained on once too often or too rarely, of all tries.
    final: the state at the end, against that of a run without the fault.
    held: whether all is as promised.
    seconds: how long the slowest try took to be over, where that counts.
  """

  fault: str
  tries: int
  detected: int
  steps_lost: str = NOTHING
  examples: str = NOTHING
  final: str = NOTHING
  held: bool = True
  seconds: str = NOTHING


def table(outcomes: Iterable[Outcome]) -> str:
  """Returns the Markdown table of outcomes."""
  head = "| fault | tries | detected | steps lost | examples | final state | s | held |"
  lines = [head, "|---|---|---|---|---|---|---|---|"]
  for one in outcomes:
    held = "yes" if one.held else "**NO**"
    lines.append(
      f"| {one.fault} | {one.tries:,} | {one.detected:,} | {one.steps_lost} | {one.examples} | "
      f"{one.final} | {one.seconds} | {held} |"
    )
  return "\n".join(lines)


def rows_astray(model_dir: pathlib.Path, step: int, expected: int | None = None) -> int:
  """Returns how many rows more or fewer the run has taken than its steps have had, at a checkpoint."""
  path = model_dir / "checkpoints" / f"checkpoint_{step}" / "data_state.json"
  taken = json.loads(path.read_text())["position"]["rows_consumed"]
  return abs(taken - (ROWS * step if expected is None else expected))


def compared(one: pathlib.Path, other: pathlib.Path, step: int) -> tuple[str, bool]:
  """Returns what to say of two runs' states at a step, and whether they are the same."""
  differing = runs.differing(runs.arrays(one, step), runs.arrays(other, step))
  return f"{len(differing)} arrays differ" if differing else "bit for bit", not differing


def resumed_from(output: str) -> int:
  """Returns the step that a run said it goes on from; 0: from the beginning."""
  line = next((line for line in output.splitlines() if line.startswith("Resuming from step")), "")
  return int(line.removeprefix("Resuming from step ").partition(",")[0] or 0)
