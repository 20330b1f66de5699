# SPDX-License-Identifier: Apache-2.0
"""What a run tells the user and writes down: from process 0 alone, in a run of several."""

from __future__ import annotations

from pathlib import Path

import jax

from switch_t5.metrics.progress import Progress
from switch_t5.metrics.writer import MetricsWriter


class Reporter:
  """Messages, the progress bar, metrics.jsonl and events; does nothing in other processes."""

  def __init__(self, model_dir: Path):
    self._model_dir = model_dir
    self._speaks = jax.process_index() == 0
    self._progress: Progress | None = None
    self._writer: MetricsWriter | None = None

  def start(self, total_steps: int, step: int) -> None:
    """Opens the files and the bar."""
    if self._speaks:
      self._writer = MetricsWriter(self._model_dir)
      self._progress = Progress(total_steps, step)

  def close(self) -> None:
    """Closes them; messages go on."""
    if self._writer is not None:
      self._writer.close()
    if self._progress is not None:
      self._progress.close()
    self._writer = self._progress = None

  def say(self, text: str) -> None:
    """Prints a message, above the bar while there is one."""
    if self._progress is not None:
      self._progress.message(text)
    elif self._speaks:
      print(text, flush=True)

  def step(self, step: int) -> None:
    """Moves the bar."""
    if self._progress is not None:
      self._progress.step(step)

  def write(self, step: int, metrics: dict[str, float]) -> None:
    """Writes metrics; those of a log window also move the bar."""
    if self._writer is not None:
      self._writer.write(step, metrics)
    if self._progress is not None and "train/loss" in metrics:
      self._progress.report(
        step, loss=metrics["train/loss"], tokens_per_second=metrics["train/tokens_per_second"]
      )
