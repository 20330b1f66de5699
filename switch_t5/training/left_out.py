# SPDX-License-Identifier: Apache-2.0
"""Batches that are left out of a run because their steps were bad: found, counted, remembered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax

from switch_t5.errors import DivergedError
from switch_t5.metrics.train_metrics import StepMetrics, total_norm
from switch_t5.training.bad_steps import GO_BACK, STOP, BadSteps
from switch_t5.training.loop import LoopState


class BadBatch(NamedTuple):
  """A batch that is left out.

  Attributes:
    first_row, last_row: its rows, in the order in which the run's data come, from 0.
    step: steps done before it.
    loss, gradient_norm: of its step, as text: they may be no numbers.
  """

  first_row: int
  last_row: int
  step: int
  loss: str
  gradient_norm: str

  def __str__(self) -> str:
    return (
      f"rows {self.first_row} to {self.last_row} of the data, after step {self.step}: loss {self.loss}, "
      f"norm of the gradients {self.gradient_norm}"
    )


class BadStepWatch:
  """Looks at steps before anything is made of them, and remembers what is left out.

  Args:
    config: the policy.
    batch_size: rows of a batch.
    left_out: by earlier starts of the run.
    record: takes all that is left out, to be kept.
    say: takes a line for the terminal.
  """

  def __init__(
    self,
    config: BadSteps,
    batch_size: int,
    left_out: Sequence[BadBatch],
    record: Callable[[Sequence[BadBatch]], None],
    say: Callable[[str], None],
  ):
    self._config, self._batch_size = config, batch_size
    self.left_out = {batch.first_row: batch for batch in left_out}
    self._record, self._say = record, say

  def passes(self, first_row: int) -> bool:
    """Returns whether a batch is to be trained on; one that a step skips is given to it again.

    A batch of another size than the one that was left out is, if they share a row.
    """
    if self._config.action != GO_BACK:
      return True
    end = first_row + self._batch_size
    return not any(b.first_row < end and first_row <= b.last_row for b in self.left_out.values())

  def __call__(self, loop: LoopState) -> bool:
    """Looks at the steps since it was last asked; returns whether the run is to go back.

    Raises:
      DivergedError: if more batches would be left out than may be.
    """
    window = loop.window[loop.inspected :]
    first_rows = loop.first_rows[loop.inspected :]
    loop.inspected = len(loop.window)
    if self._config.action == STOP:  # the log hook ends the run, once the line is written
      return False
    bad = [bool(one) for one in jax.device_get([metrics.is_bad for metrics in window])]
    goes_back = self._config.action == GO_BACK
    before = loop.step - (len(bad) if goes_back else len(bad) - sum(bad))
    found = []
    for first_row, metrics, is_bad in zip(first_rows, window, bad, strict=True):
      if is_bad and first_row not in self.left_out:
        found.append(self._describe(first_row, before, metrics))
      if is_bad and goes_back:
        break  # what follows may follow from it
      before += goes_back or not is_bad
    if found:
      self._leave_out(found)
    return goes_back and bool(found)

  def _leave_out(self, found: Sequence[BadBatch]) -> None:
    for batch in found:
      self._say(f"Left out: {batch}")
    self.left_out |= {batch.first_row: batch for batch in found}
    if len(self.left_out) > self._config.most:
      raise DivergedError(
        "More batches are bad than may be left out.",
        value="\n  ".join(map(str, self.left_out.values())),
        rule=f"at most BadSteps.most = {self._config.most}",
        remedy="go on from the last checkpoint with a lower learning rate or another SEED; a larger "
        "BadSteps.most if it is the data",
      )
    self._record(list(self.left_out.values()))

  def _describe(self, first_row: int, step: int, metrics: StepMetrics) -> BadBatch:
    host = jax.device_get(metrics)
    return BadBatch(
      first_row,
      first_row + self._batch_size - 1,
      step,
      f"{float(host.sums.loss):.4g}",
      f"{total_norm(host.gradient_norms):.4g}",
    )
