# SPDX-License-Identifier: Apache-2.0
"""What happens between steps: logging, checkpoints, evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax

from switch_t5.errors import DivergedError
from switch_t5.metrics import expert_loads
from switch_t5.metrics.goodput import CHECKPOINT, EVALUATION, LOGGING
from switch_t5.metrics.train_metrics import StepFlops, StepMetrics, train_metrics
from switch_t5.training.loop import LoopState
from switch_t5.training.norms import describe_norms, layer_norms
from switch_t5.training.state import TrainState
from switch_t5.types import Array

WriteMetrics = Callable[[int, dict[str, float], dict[str, str]], None]


@dataclasses.dataclass
class LogHook:
  """Reads the window's sums from the device, writes them, and stops a run that diverged.

  Attributes:
    period: LOG_PERIOD.
    write: takes the step, the metrics, and the loads of experts by router (`expert_loads`), of
      steps where they are due.
    learning_rate: the schedule.
    routers: names of the model's routers.
    flops: of a step, if they were counted.
    host_spread: takes the seconds of a step that are this process's own, and all of them; returns
      metrics.
    skips: whether bad steps were skipped: they are counted, and no part of the means.
  """

  kind: ClassVar[str] = LOGGING

  period: int
  write: WriteMetrics
  learning_rate: optax.Schedule
  routers: Sequence[str] = ()
  flops: StepFlops | None = None
  host_spread: Callable[[float, float], dict[str, float]] = lambda host, step: {}
  skips: bool = False
  _last_loads: int = dataclasses.field(default=0, init=False)

  def __call__(self, loop: LoopState) -> None:
    """Writes one line of metrics and empties the window."""
    if not loop.window:
      return
    window = jax.device_get(loop.window)  # one transfer
    kept = [step for step in window if not (self.skips and step.is_bad)]
    seconds, host_seconds = loop.window_seconds, loop.host_seconds
    loop.clear_window()
    if not kept:
      return
    metrics = train_metrics(
      kept,
      seconds=seconds,
      learning_rate=float(self.learning_rate(loop.step - 1)),
      routers=self.routers,
      flops=self.flops,
    )
    metrics |= self.host_spread(host_seconds / len(window), seconds / len(window))
    if self.skips:
      metrics["train/skipped_steps"] = float(len(window) - len(kept))
    loads = {}
    if self.routers and expert_loads.is_due(loop.step, self._last_loads):
      loads = expert_loads.of_window([step.sums for step in kept], self.routers)
      self._last_loads = loop.step
    self.write(loop.step, metrics, loads)
    check_good(loop, kept)


@dataclasses.dataclass
class CheckpointHook:
  """Saves every `period` steps.

  Attributes:
    period: CHECKPOINT_PERIOD.
    save: takes the progress; returns when the device arrays may be donated.
  """

  kind: ClassVar[str] = CHECKPOINT

  period: int
  save: Callable[[LoopState], None]

  def __call__(self, loop: LoopState) -> None:
    """Saves, unless the state is not finite: a step of finite loss can still have broken it."""
    if not _all_finite(loop.state):
      raise _diverged("The state is not finite.", f"a parameter or a moment after step {loop.step}")
    self.save(loop)


@dataclasses.dataclass
class EvalHook:
  """Evaluates every `period` steps.

  Attributes:
    period: EVAL_PERIOD.
    evaluate: takes the loop.
  """

  kind: ClassVar[str] = EVALUATION

  period: int
  evaluate: Callable[[LoopState], None]

  def __call__(self, loop: LoopState) -> None:
    """Evaluates the current parameters."""
    self.evaluate(loop)


def check_good(loop: LoopState, window: Sequence[StepMetrics]) -> None:
  """Raises DivergedError, with the norms of each layer, if a step was bad.

  Args:
    loop: after the window's last step.
    window: its steps, on the host.
  """
  for step, metrics in enumerate(window, start=loop.step - len(window) + 1):
    if metrics.is_bad:
      loss = float(metrics.sums.loss)
      norms = jax.device_get(jax.jit(layer_norms)(loop.state.params))
      raise _diverged(
        "The loss or a gradient is not finite, or beyond a limit of BadSteps.",
        f"train/loss {loss} first at step {step}\n"
        f"  norms of the gradients at step {step}, layer by layer:\n"
        f"{describe_norms(metrics.gradient_norms)}\n"
        f"  norms of the parameters after step {loop.step}:\n{describe_norms(norms)}",
      )


@jax.jit
def _all_finite(state: TrainState) -> Array:
  return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state)]).all()


def _diverged(what: str, value: str) -> DivergedError:
  return DivergedError(
    what,
    value=value,
    rule="training stops before a diverged state is saved",
    remedy="go on from the last checkpoint with a lower learning rate or another SEED; or without "
    "the batch: BadSteps.action = 'go_back'",
  )
