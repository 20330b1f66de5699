# SPDX-License-Identifier: Apache-2.0
"""The loop and its hooks, around a step that only counts."""

from __future__ import annotations

import math
import os
import signal

import jax.numpy as jnp
import pytest

from switch_t5.errors import DivergedError
from switch_t5.metrics.train_metrics import MetricSums
from switch_t5.training.hooks import CheckpointHook, EvalHook, LogHook, check_finite
from switch_t5.training.interruption import Interruption
from switch_t5.training.loop import train_loop
from switch_t5.training.state import TrainState

pytestmark = pytest.mark.smoke


def sums(loss: float) -> MetricSums:
  values = dict.fromkeys(MetricSums._fields, jnp.ones(()))
  layers = {"expert_load": jnp.ones((1, 2)), "num_dropped": jnp.zeros((1,))}
  return MetricSums(**(values | layers | {"loss": jnp.asarray(loss)}))


def counting_step(losses):
  """A step that only counts, and reports the given losses in turn."""

  def step(state, batch):
    return state._replace(step=state.step + 1), sums(losses[int(state.step)])

  return step


def run(hooks, *, total_steps, losses=None, interruption=None, start=0):
  seen = []
  loop = train_loop(
    TrainState(jnp.asarray(start, jnp.int32), {}, ()),
    counting_step(losses or [1.0] * total_steps),
    iter([{}] * total_steps),
    hooks,
    total_steps=total_steps,
    interruption=interruption or Interruption(),
    agree_period=1,
    on_step=seen.append,
  )
  return loop, seen


def test_hooks_act_at_their_periods_and_after_the_last_step():
  saved, evaluated = [], []
  hooks = [
    CheckpointHook(2, lambda loop: saved.append(loop.step)),
    EvalHook(3, lambda loop: evaluated.append(loop.step)),
  ]
  loop, seen = run(hooks, total_steps=7)
  assert (saved, evaluated) == ([2, 4, 6, 7], [3, 6, 7])
  assert (loop.step, seen) == (7, [1, 2, 3, 4, 5, 6, 7])


def test_a_resumed_run_counts_on():
  loop, seen = run([], total_steps=5, start=3)
  assert (loop.step, seen) == (5, [4, 5])


def test_a_log_line_is_the_mean_of_its_window_and_empties_it():
  written = {}
  log = LogHook(2, written.__setitem__, lambda step: 0.5 * step)
  loop, _ = run([log], total_steps=4, losses=[1.0, 3.0, 5.0, 7.0])
  assert [written[step]["train/loss"] for step in (2, 4)] == [2.0, 6.0]
  assert written[4]["train/learning_rate"] == 1.5  # that of the last step, which began at step 3
  assert loop.window == []


def test_a_signal_stops_after_the_step_that_it_met():
  with Interruption() as interruption:
    kill = EvalHook(3, lambda loop: os.kill(os.getpid(), signal.SIGTERM))
    loop, _ = run([kill], total_steps=9, interruption=interruption)
  assert loop.step == 3
  assert interruption.signal_name == "SIGTERM"


def test_handlers_are_put_back():
  before = signal.getsignal(signal.SIGTERM)
  with Interruption():
    assert signal.getsignal(signal.SIGTERM) != before
  assert signal.getsignal(signal.SIGTERM) == before


def test_a_loss_that_is_not_finite_stops_the_run():
  log = LogHook(1, lambda step, metrics: None, lambda step: 0.1)
  with pytest.raises(DivergedError, match="step 2") as error:
    run([log], total_steps=3, losses=[1.0, math.nan, 1.0])
  assert error.value.exit_code == 4


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_every_kind_of_not_finite_is_named(loss):
  with pytest.raises(DivergedError, match=str(loss)):
    check_finite(5, loss)
