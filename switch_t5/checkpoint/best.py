# SPDX-License-Identifier: Apache-2.0
"""Which checkpoint of a run is the best by a metric: `<MODEL_DIR>/best.json`.

It is written once the checkpoint is, and names one that exists. What a run was killed before it
could write there is found again in metrics.jsonl.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from switch_t5.checkpoint.commit import read_text, write_text_durably
from switch_t5.storage.location import Location

BEST = "best.json"


class Best(NamedTuple):
  """The best value so far.

  Attributes:
    step: of the checkpoint.
    metric: e.g. `eval/super_glue_boolq_v102/accuracy`.
    value: of the metric.
  """

  step: int
  metric: str
  value: float


def read_best(model_dir: Location) -> Best | None:
  """Returns what best.json says; None if there is none, or none that can be read."""
  try:
    found = json.loads(read_text(model_dir / BEST))
    return Best(int(found["step"]), str(found["metric"]), float(found["value"]))
  except (OSError, ValueError, KeyError, TypeError):
    return None


def write_best(model_dir: Location, best: Best) -> None:
  """Writes best.json."""
  write_text_durably(model_dir / BEST, json.dumps(best._asdict()) + "\n")


def is_better(value: float, best: Best | None, *, larger: bool) -> bool:
  """Returns whether a value is the best so far; one that is not a number never is."""
  if math.isnan(value):
    return False
  if best is None:
    return True
  return value > best.value if larger else value < best.value


def find_best(
  metric: str,
  rows: Sequence[Mapping[str, float]],
  written: Best | None,
  steps: Collection[int],
  *,
  larger: bool,
) -> Best | None:
  """Returns the best of the checkpoints that exist, of those the first.

  Args:
    metric: by which.
    rows: of metrics.jsonl, in the order of steps.
    written: what best.json says; it does not count if it is of another metric.
    steps: of the checkpoints.
    larger: whether larger values are better.
  """
  values = [Best(int(row["step"]), metric, row[metric]) for row in rows if metric in row]
  if written is not None and written.metric == metric:
    values.insert(0, written)
  best: Best | None = None
  for candidate in values:
    if candidate.step in steps and is_better(candidate.value, best, larger=larger):
      best = candidate
  return best
