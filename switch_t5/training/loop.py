# SPDX-License-Identifier: Apache-2.0
"""The loop: batches through the step, hooks around it. Nothing here waits for a metric's value."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, Protocol

from switch_t5.metrics.goodput import COMPUTE, INPUT
from switch_t5.metrics.train_metrics import StepMetrics
from switch_t5.training.goodput import Ledger, StepInFlight
from switch_t5.training.interruption import Interruption
from switch_t5.training.state import TrainState
from switch_t5.training.train_step import TrainStep
from switch_t5.types import DeviceBatch


@dataclasses.dataclass
class LoopState:
  """Where a run stands; hooks read it, the log hook empties the window.

  Attributes:
    step: steps done.
    state: the state after them.
    window: metrics of the steps since the last log line, still on the device.
    window_seconds: spent in those steps, hooks and compilation left out.
    host_seconds: of them, what this process did not wait for its devices.
    first_rows: of the window's batches, in the order in which the run's data come, from 0.
    inspected: how many of the window's steps were looked at for bad ones.
    goes_back: whether the loop ended because the run is to go on from an earlier checkpoint.
  """

  step: int
  state: TrainState
  window: list[StepMetrics] = dataclasses.field(default_factory=list)
  window_seconds: float = 0.0
  host_seconds: float = 0.0
  first_rows: list[int] = dataclasses.field(default_factory=list)
  inspected: int = 0
  goes_back: bool = False

  def clear_window(self) -> None:
    """Begins another window."""
    self.window.clear()
    self.first_rows.clear()
    self.window_seconds, self.host_seconds, self.inspected = 0.0, 0.0, 0


class Hook(Protocol):
  """Called between steps, every `period` steps and after the last one.

  Attributes:
    period: in steps.
    kind: what its time counts to (`metrics/goodput.py`).
  """

  period: int
  kind: ClassVar[str]

  def __call__(self, loop: LoopState) -> None:
    """Acts on what has been done so far; may take its time, which is not counted as training."""


def train_loop(
  state: TrainState,
  train_step: TrainStep,
  batches: Iterator[tuple[int, DeviceBatch]],
  hooks: Sequence[Hook],
  *,
  total_steps: int,
  interruption: Interruption,
  agree_period: int,
  on_step: Callable[[int], None],
  ledger: Ledger,
  goes_back: Callable[[LoopState], bool] = lambda loop: False,
) -> LoopState:
  """Runs from `state.step` to `total_steps`, until interrupted or until it is to go back.

  Args:
    state: its buffers are donated to the first step.
    train_step: from `build_train_step`, compiled or not.
    batches: each with the place of its first row in the run's data; ends after total_steps or never.
    hooks: in the order in which they act.
    total_steps: the step to reach.
    interruption: asked between steps.
    on_step: told each step as it is handed to the device, for a progress bar; must not wait.
    agree_period: with several processes, every how many steps they agree on stopping.
    ledger: is told what the time goes into.
    goes_back: asked before any hook acts: whether to leave the loop at once.

  Returns:
    The progress at the end; `loop.step < total_steps` if it was interrupted.
  """

  def due(step: int) -> list[Hook]:
    return [hook for hook in hooks if step % hook.period == 0 or step == total_steps]

  loop = LoopState(int(state.step), state)
  in_flight = StepInFlight(ledger)
  ledger.enter(COMPUTE)
  started = ledger.clock()
  while loop.step < total_steps:
    asked = ledger.clock()
    with ledger.measure(INPUT):
      first_row, batch = next(batches)
    # One step in flight: enough to hide the host's work, and emulated devices that share a CPU
    # cannot starve each other in the collectives of two programs.
    loop.host_seconds -= in_flight.wait(asked, ledger.clock())
    loop.state, metrics = train_step(loop.state, batch)
    in_flight.begin(metrics)
    loop.window.append(metrics)
    loop.first_rows.append(first_row)
    loop.step += 1
    ledger.step = loop.step
    on_step(loop.step)
    if due(loop.step):
      now = ledger.clock()
      loop.host_seconds -= in_flight.wait(now, now)
      took = ledger.clock() - started
      loop.window_seconds += took
      loop.host_seconds += took
      loop.step = int(loop.state.step)  # fewer than were taken, if some were skipped
      loop.goes_back = goes_back(loop)
      if loop.goes_back:
        return loop
      for hook in due(loop.step):
        with ledger.measure(hook.kind):
          hook(loop)
      started = ledger.clock()
    asked = ledger.clock()
    stop = interruption.requested(may_communicate=loop.step % agree_period == 0)
    loop.host_seconds -= ledger.clock() - asked  # waits for the others
    if stop:
      loop.step = int(loop.state.step)
      loop.goes_back = goes_back(loop)
      break
  return loop
