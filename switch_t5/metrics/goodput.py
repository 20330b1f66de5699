# SPDX-License-Identifier: Apache-2.0
"""What the time of a MODEL_DIR's whole life went into, from metrics.jsonl and run.json alone.

Every log line carries the seconds of each kind since its start of the process, so that a process
that is killed loses the account of one log period at most; that time counts as restart.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

COMPUTE = "compute"  # steps, with what the host does between them
INPUT = "input"  # the devices have nothing to do: the batch is not there
CHECKPOINT = "checkpoint"  # what the loop waits for, not what a thread writes meanwhile
EVALUATION = "evaluation"
COMPILATION = "compilation"
LOGGING = "logging"  # metrics, read from the devices and written
STARTUP = "startup"  # from the first import to the first step; restoring too
KINDS = (COMPUTE, INPUT, CHECKPOINT, EVALUATION, COMPILATION, LOGGING, STARTUP)
RESTART = "restart"  # from the last sign of life of one start to the beginning of the next
LOST = "lost"  # compute of steps that were done again

_PREFIX = "goodput/"
_START = f"{_PREFIX}start"
_TIME = f"{_PREFIX}unix_time"
_DONE = f"{_PREFIX}done"


class Life(NamedTuple):
  """The time of a MODEL_DIR.

  Attributes:
    seconds: of each of `KINDS`, of RESTART and of LOST; together all of the time.
    starts: how many there were.
    repeated_steps: steps that were done again after a restart.
  """

  seconds: dict[str, float]
  starts: int
  repeated_steps: int

  @property
  def total(self) -> float:
    """Seconds from the first start to the last sign of life."""
    return sum(self.seconds.values())

  @property
  def goodput(self) -> float:
    """The fraction of the time that went into steps that were not lost."""
    return self.seconds[COMPUTE] / self.total if self.total else 0.0

  def plus(self, seconds: Mapping[str, float]) -> Life:
    """Returns this life with more time of some kinds."""
    return self._replace(seconds={k: v + seconds.get(k, 0.0) for k, v in self.seconds.items()})


def row(
  seconds: Mapping[str, float], *, start: int, unix_time: float, done: bool
) -> dict[str, float]:
  """Returns what a line of metrics carries, by public name.

  Args:
    seconds: of each of `KINDS` since the start of the process.
    start: of run.json's starts, from 0.
    unix_time: now.
    done: whether TRAIN_STEPS are reached and the process ends.
  """
  named = {f"{_PREFIX}{kind}_seconds": value for kind, value in seconds.items()}
  return named | {_START: start, _TIME: unix_time} | ({_DONE: 1.0} if done else {})


def whole_life(rows: Iterable[Mapping[str, float]], starts: Sequence[Mapping[str, Any]]) -> Life:
  """Returns where the time went, of all starts together.

  Args:
    rows: of metrics.jsonl in the order of the file, repeated steps included; those without a
      `goodput/` name are passed over.
    starts: of run.json. `step` is where each went on: what an earlier one did beyond it was lost.
      A start that died before its first line has no time of its own: it is in that of the restart.
  """
  seconds = dict.fromkeys((*KINDS, RESTART, LOST), 0.0)
  repeated, ended = 0, None
  known = (row for row in rows if _START in row)
  for index, group in itertools.groupby(known, key=lambda row: int(row[_START])):
    lines = list(group)
    first, last = lines[0], lines[-1]
    began = first[_TIME] - sum(_seconds(first).values())
    if ended is not None:
      seconds[RESTART] += max(0.0, began - ended)
    # A run that was done is not waiting to be started again.
    ended = None if _DONE in last else last[_TIME]
    for kind, value in _seconds(last).items():
      seconds[kind] += value
    lost_steps, lost = _lost(lines, index, starts)
    repeated += lost_steps
    seconds[COMPUTE] -= lost
    seconds[LOST] += lost
  return Life(seconds, len(starts), repeated)


def describe(life: Life) -> str:
  """Returns a line: the fraction, the kinds from the largest to the smallest, the restarts."""
  kinds = sorted(life.seconds.items(), key=lambda item: -item[1])
  shown = ", ".join(f"{kind} {_duration(s)}" for kind, s in kinds if s >= 0.001 * life.total)
  again = f"; {life.starts - 1} restart{'s' * (life.starts != 2)}" if life.starts > 1 else ""
  if life.repeated_steps:
    again += f", {life.repeated_steps} step{'s' * (life.repeated_steps != 1)} repeated"
  return f"Goodput {life.goodput:.1%} of {_duration(life.total)}: {shown}{again}"


def _seconds(line: Mapping[str, float]) -> dict[str, float]:
  return {kind: float(line.get(f"{_PREFIX}{kind}_seconds", 0.0)) for kind in KINDS}


def _lost(
  lines: Sequence[Mapping[str, float]], index: int, starts: Sequence[Mapping[str, Any]]
) -> tuple[int, float]:
  """Returns how many steps of a start were done again, and the seconds of compute that they took."""
  begin = int(starts[index]["step"]) if index < len(starts) else int(lines[0]["step"])
  kept = min((int(start["step"]) for start in starts[index + 1 :]), default=None)
  end = int(lines[-1]["step"])
  if kept is None or kept >= end:
    return 0, 0.0
  kept = max(kept, begin)
  steps = [begin, *(int(line["step"]) for line in lines)]
  compute = [0.0, *(_seconds(line)[COMPUTE] for line in lines)]
  return max(0, end - kept), compute[-1] - float(np.interp(kept, steps, compute))


def _duration(seconds: float) -> str:
  if seconds < 60:
    return f"{seconds:.1f} s"
  minutes = round(seconds / 60)
  if minutes < 60:
    return f"{minutes} min"
  hours, minutes = divmod(minutes, 60)
  return f"{hours} h {minutes} min"
