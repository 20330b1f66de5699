# SPDX-License-Identifier: Apache-2.0
"""A profiler trace of some steps, for TensorBoard's profile plugin or Perfetto."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import jax

from switch_t5.storage import transfers
from switch_t5.storage.location import Location, is_remote


class StepTrace:
  """Traces some steps of a loop that keeps one step in flight.

  Args:
    directory: where the trace goes. The profiler writes to file systems only: to a store it is put once
      it is whole.
    steps: the first and the last, counted from 1, of which those of a resumed run's past are not
      traced; None: no trace.
    step: steps done when the loop starts.
  """

  def __init__(self, directory: Location, steps: tuple[int, int] | None, step: int):
    self._directory = directory
    self._first, self._last = steps or (1, 0)
    self._running = False
    self.step(step)

  def step(self, step: int) -> None:
    """Is told each step as it is handed to the device: the one before it is done by then."""
    if self._running and step > self._last:
      self.close()
    elif not self._running and self._first - 1 <= step < self._last:
      self._here = self._directory
      if is_remote(self._directory):
        self._here = Path(tempfile.mkdtemp(prefix="trace-"))
      jax.profiler.start_trace(self._here)
      self._running = True

  def close(self) -> None:
    """Writes the trace, also if the loop ended before `last`."""
    if self._running:
      jax.profiler.stop_trace()
      self._running = False
      if is_remote(self._directory):
        for file in filter(Path.is_file, Path(self._here).rglob("*")):
          transfers.upload(file, self._directory / str(file.relative_to(self._here)))
        shutil.rmtree(self._here)
