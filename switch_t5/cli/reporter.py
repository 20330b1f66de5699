# SPDX-License-Identifier: Apache-2.0
"""What a run tells the user and writes down: from process 0 alone, in a run of several."""

from __future__ import annotations

from collections.abc import Mapping

import jax

from switch_t5.metrics import expert_loads
from switch_t5.metrics.progress import Progress
from switch_t5.metrics.stored import StoredMetricsWriter, open_writer
from switch_t5.metrics.wandb_sink import WandbSink
from switch_t5.metrics.writer import MetricsWriter
from switch_t5.reports import load_map
from switch_t5.reports.run_content import Loads
from switch_t5.storage.location import Location


class Reporter:
  """Messages, the progress bar, metrics.jsonl and events; does nothing in other processes.

  Args:
    model_dir: MODEL_DIR.
    wandb_project: a project of Weights & Biases that gets the metrics too, or None.
  """

  def __init__(self, model_dir: Location, wandb_project: str | None = None):
    self._model_dir, self._wandb_project = model_dir, wandb_project
    self._speaks = jax.process_index() == 0
    self._progress: Progress | None = None
    self._writer: MetricsWriter | StoredMetricsWriter | None = None
    self._wandb: WandbSink | None = None
    self._loads: dict[str, dict[int, list[float]]] = {}

  def start(self, total_steps: int, step: int, config: Mapping[str, object]) -> None:
    """Opens the files and the bar; `config` describes the run to those who compare runs."""
    if self._speaks:
      self._writer = open_writer(self._model_dir)
      if self._wandb_project is not None:
        self._wandb = WandbSink(self._model_dir, self._wandb_project, config)
      self._progress = Progress(total_steps, step)

  def close(self) -> None:
    """Closes them; messages go on."""
    for sink in (self._writer, self._wandb):
      if sink is not None:
        sink.close()
    self._writer = self._wandb = None
    if self._progress is not None:
      self._progress.close()
    self._progress = None

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

  def write(
    self, step: int, metrics: dict[str, float], loads: Mapping[str, str] | None = None
  ) -> None:
    """Writes metrics; those of a log window also move the bar.

    Args:
      step: steps done.
      metrics: by public name.
      loads: of the experts, by router, if they are due (`expert_loads`); they become pictures too.
    """
    if self._writer is not None:
      self._writer.write(step, metrics, loads)
      for router, text in (loads or {}).items():
        history = self._loads.setdefault(router, {})
        history[step] = expert_loads.decode(text)
        image = load_map.image(Loads(list(history), list(history.values())))
        self._writer.write_image(f"expert_load/{router}", step, image)
    if self._wandb is not None:
      self._wandb.write(step, metrics)
    if self._progress is not None and "train/loss" in metrics:
      self._progress.report(
        step, loss=metrics["train/loss"], tokens_per_second=metrics["train/tokens_per_second"]
      )
