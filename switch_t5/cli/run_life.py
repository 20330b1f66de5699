# SPDX-License-Identifier: Apache-2.0
"""The time of a MODEL_DIR while one of its starts goes on: what lies before, and what is added."""

from __future__ import annotations

import json
import time

from switch_t5.checkpoint.commit import read_text
from switch_t5.metrics import goodput
from switch_t5.metrics.writer import METRICS_FILE, read_lines
from switch_t5.storage.location import Location
from switch_t5.training.goodput import Ledger


class RunLife:
  """The whole life of a MODEL_DIR, up to now; process 0's alone.

  Args:
    model_dir: MODEL_DIR; run.json has this start already.
    ledger: of this process.
  """

  def __init__(self, model_dir: Location, ledger: Ledger):
    self._ledger = ledger
    starts = json.loads(read_text(model_dir / "run.json"))["starts"]
    self._start = len(starts) - 1
    rows = read_lines(model_dir / METRICS_FILE)
    self._counted = ledger.seconds()
    now = goodput.row(self._counted, start=self._start, unix_time=time.time(), done=False)
    now |= {"step": starts[-1]["step"]}
    self._life = goodput.whole_life([*rows, now], starts)

  def metrics(self, *, done: bool = False) -> dict[str, float]:
    """Returns what a line of metrics carries: this start's seconds, the whole life's goodput.

    Args:
      done: see `goodput.row`.
    """
    seconds, now = self._ledger.seconds(), time.time()
    named = goodput.row(seconds, start=self._start, unix_time=now, done=done)
    return named | {"goodput/fraction": self._until_now().goodput}

  def describe(self) -> str:
    """Returns the line of the run's end."""
    return goodput.describe(self._until_now())

  def _until_now(self) -> goodput.Life:
    seconds = self._ledger.seconds()
    return self._life.plus({kind: seconds[kind] - self._counted[kind] for kind in seconds})
