# SPDX-License-Identifier: Apache-2.0
"""Keeps the checkpoint with the best value of a metric, over kills and resumed runs."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping

import jax

from switch_t5.checkpoint.best import Best, find_best, is_better, read_best, write_best
from switch_t5.checkpoint.listing import list_steps
from switch_t5.checkpoint.manager import CheckpointManager
from switch_t5.errors import ConfigError
from switch_t5.metrics.writer import METRICS_FILE, read_metrics
from switch_t5.sharding.placement import from_all_processes
from switch_t5.storage.location import Location

_SMALLER = ("loss", "cross_entropy")


def larger_is_better(metric: str, said: bool | None) -> bool:
  """Returns whether larger values of a metric are better: as was said, or by its name."""
  return not metric.endswith(_SMALLER) if said is None else said


class BestCheckpoint:
  """The best checkpoint of a run so far. Every process calls every method.

  Args:
    model_dir: MODEL_DIR.
    checkpoints: of the run.
    metric: by which; None: none is the best, and nothing is done.
    larger: whether larger values are better; None: by the metric's name.
  """

  def __init__(
    self,
    model_dir: Location,
    checkpoints: CheckpointManager,
    metric: str | None,
    larger: bool | None,
  ):
    self._model_dir, self._checkpoints, self._metric = model_dir, checkpoints, metric
    self._larger = larger_is_better(metric or "", larger)
    self.best: Best | None = None

  def check(self, known: Collection[str]) -> None:
    """Raises ConfigError if no evaluation gives the metric.

    Args:
      known: the names of what an evaluation measures.
    """
    if self._metric is not None and self._metric not in known:
      raise ConfigError(
        "There is no such metric to choose the best checkpoint by.",
        value=f"BEST_METRIC = {self._metric!r}",
        rule="one of " + ", ".join(known),
        remedy="BEST_METRIC = "
        + repr(difflib.get_close_matches(self._metric, known, n=1, cutoff=0.0)[0]),
      )

  def resume(self, step: int) -> None:
    """Finds the best of the checkpoints that a run goes on with, which is at `step`."""
    if self._metric is None:
      return
    found = None
    if jax.process_index() == 0:
      rows = read_metrics(self._model_dir / METRICS_FILE)
      steps = [s for s in list_steps(self._model_dir / "checkpoints") if s <= step]
      found = find_best(self._metric, rows, read_best(self._model_dir), steps, larger=self._larger)
    shared = from_all_processes(found)[0]
    if shared is not None:
      self._keep(Best(*shared))

  def see(self, step: int, metrics: Mapping[str, float], save: Callable[[], None]) -> bool:
    """Saves and keeps the checkpoint of `step` if it is the best so far; returns whether it is.

    Args:
      step: of the evaluation.
      metrics: what it measured.
      save: saves a checkpoint of the step, unless that is done.
    """
    if self._metric is None:
      return False
    self.check(metrics.keys())
    value = from_all_processes(float(metrics[self._metric]))[0]
    if not is_better(value, self.best, larger=self._larger):
      return False
    save()
    self._checkpoints.wait()  # best.json names a checkpoint that is there
    self._keep(Best(step, self._metric, value))
    return True

  def _keep(self, best: Best) -> None:
    self.best = best
    if jax.process_index() == 0 and read_best(self._model_dir) != best:
      write_best(self._model_dir, best)
    self._checkpoints.protect(best.step)
