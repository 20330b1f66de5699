# SPDX-License-Identifier: Apache-2.0
"""How far a run is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from typing import TextIO

from tqdm import tqdm

BAR_FORMAT = "step {n_fmt}/{total_fmt} {percentage:3.0f}%|{bar}|{desc}  ETA {remaining}"


class Progress:
  """Shows steps done, loss, tokens per second and the time that is left.

  On a terminal a bar moves with every step; elsewhere (a file, a job's log) each report is a line.
  """

  def __init__(self, total_steps: int, start_step: int = 0, stream: TextIO | None = None):
    """Starts the clock.

    Args:
      total_steps: of the whole run.
      start_step: steps done before this process started.
      stream: where to show it; the standard error by default.
    """
    self._total_steps = total_steps
    self._stream = sys.stderr if stream is None else stream
    self._reported = (start_step, time.monotonic())
    self._bar = None
    if _is_terminal(self._stream):
      self._bar = tqdm(
        total=total_steps,
        initial=start_step,
        file=self._stream,
        bar_format=BAR_FORMAT,
        dynamic_ncols=True,
      )

  def step(self, step: int) -> None:
    """Moves the bar; does not touch the device.

    Args:
      step: steps done.
    """
    if self._bar is not None:
      self._bar.update(step - self._bar.n)

  def report(self, step: int, *, loss: float, tokens_per_second: float) -> None:
    """Shows what was measured up to a step: on the bar, or as a line.

    Args:
      step: steps done.
      loss: of the log window.
      tokens_per_second: likewise.
    """
    measured = f"  loss {loss:.4f}  tokens/s {tokens_per_second:,.0f}"
    if self._bar is not None:
      self._bar.set_description_str(measured, refresh=False)
      self.step(step)
      self._bar.refresh()
    else:
      self._write(f"step {step}/{self._total_steps}{measured}  ETA {self._time_left(step)}")

  def message(self, text: str) -> None:
    """Prints a line of its own, above the bar if there is one."""
    if self._bar is not None:
      self._bar.write(text, file=self._stream)
    else:
      self._write(text)

  def close(self) -> None:
    """Leaves the bar as it stands and ends its line."""
    if self._bar is not None:
      self._bar.close()

  def _time_left(self, step: int) -> str:
    """Goes by the pace since the last report: earlier steps may have waited for a compilation."""
    last_step, last_time = self._reported
    now = time.monotonic()
    self._reported = (step, now)
    seconds_per_step = (now - last_time) / max(step - last_step, 1)
    return tqdm.format_interval(seconds_per_step * (self._total_steps - step))

  def _write(self, text: str) -> None:
    print(text, file=self._stream, flush=True)


def _is_terminal(stream: TextIO) -> bool:
  """Whether a bar can be drawn: some terminals (of containers, of `script`) have no width."""
  return stream.isatty() and os.get_terminal_size(stream.fileno()).columns > 0
