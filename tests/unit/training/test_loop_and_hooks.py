# SPDX-License-Identifier: Apache-2.0
"""The loop around a step of plain arithmetic: hooks, interruption, divergence."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import signal
import time
from typing import ClassVar

import jax.numpy as jnp
import optax
import pytest

from switch_t5.errors import DivergedError
from switch_t5.metrics.goodput import EVALUATION, INPUT
from switch_t5.metrics.train_metrics import MetricSums, StepMetrics
from switch_t5.training.bad_steps import BadSteps
from switch_t5.training.goodput import Ledger, StepInFlight
from switch_t5.training.hooks import CheckpointHook, EvalHook, LogHook
from switch_t5.training.interruption import Interruption
from switch_t5.training.loop import LoopState, train_loop
from switch_t5.training.state import TrainState


def make_metrics(loss: float) -> StepMetrics:
  ones = dict.fromkeys(MetricSums._fields, jnp.float32(1.0))
  router = {"expert_load": jnp.ones((1, 2)), "num_dropped": jnp.zeros(1)}
  router |= {name: jnp.ones(1) for name in ("routed_tokens", "router_entropy", "router_confidence")}
  sums = MetricSums(**ones | router | {"loss": jnp.float32(loss)})
  norms = {"encoder": jnp.float32([3.0, 4.0 * loss])}
  return StepMetrics(sums, norms, BadSteps().is_bad(sums.loss, norms))


def add_batch(state, batch):
  """The parameter is the sum of the batches; the loss is the batch."""
  total = state.params + jnp.float32(batch)
  return TrainState(state.step + 1, total, ()), make_metrics(batch)


def start(step=0) -> TrainState:
  return TrainState(jnp.int32(step), jnp.float32(0.0), ())


@dataclasses.dataclass
class Recorder:
  """A hook that notes when it was called."""

  kind: ClassVar[str] = EVALUATION

  period: int
  name: str
  calls: list

  def __call__(self, loop: LoopState) -> None:
    self.calls.append((loop.step, self.name))


def run(
  state=None,
  hooks=(),
  *,
  step=add_batch,
  total_steps=10,
  batches=None,
  on_step=lambda step: None,
  ledger=None,
):
  with Interruption() as interruption:
    return train_loop(
      start() if state is None else state,
      step,
      enumerate(itertools.count(1.0) if batches is None else batches),
      hooks,
      total_steps=total_steps,
      interruption=interruption,
      agree_period=1,
      on_step=on_step,
      ledger=Ledger() if ledger is None else ledger,
    )


def test_every_batch_is_used_once_in_order_and_each_step_is_told():
  told = []
  loop = run(total_steps=4, batches=[1.0, 2.0, 3.0, 4.0], on_step=told.append)
  assert (loop.step, int(loop.state.step), float(loop.state.params)) == (4, 4, 10.0)
  assert told == [1, 2, 3, 4]
  assert [float(step.sums.loss) for step in loop.window] == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.smoke
def test_hooks_act_at_their_periods_and_at_the_end_in_their_order():
  calls = []
  run(hooks=[Recorder(4, "a", calls), Recorder(3, "b", calls)])
  assert calls == [(3, "b"), (4, "a"), (6, "b"), (8, "a"), (9, "b"), (10, "a"), (10, "b")]


def test_a_resumed_loop_counts_on_and_keeps_the_periods():
  calls = []
  loop = run(start(step=5), hooks=[Recorder(4, "a", calls)], total_steps=9)
  assert loop.step == 9
  assert calls == [(8, "a"), (9, "a")]


def test_nothing_is_done_beyond_the_last_step():
  calls = []
  loop = run(start(step=3), hooks=[Recorder(1, "a", calls)], total_steps=3, batches=[])
  assert (loop.step, calls) == (3, [])


@pytest.mark.smoke
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_loop_after_its_step(number, caplog):
  def interrupt(step):
    if step == 3:
      signal.raise_signal(number)

  before = signal.getsignal(number)
  with caplog.at_level(logging.WARNING):
    loop = run(on_step=interrupt)
  assert (loop.step, int(loop.state.step), float(loop.state.params)) == (3, 3, 6.0)
  assert signal.getsignal(number) is before
  assert number.name in caplog.text


def test_a_second_ctrl_c_leaves_at_once_and_a_second_sigterm_does_not():
  with Interruption() as interruption:
    assert not interruption.requested(may_communicate=True)
    assert interruption.signal_name == ""
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)  # a scheduler may send it again
    assert interruption.requested(may_communicate=False)
    assert interruption.signal_name == "SIGTERM"
    with pytest.raises(KeyboardInterrupt):
      signal.raise_signal(signal.SIGINT)


def make_log_hook(period, lines):
  rate = optax.linear_schedule(0.0, 1.0, 10)
  write = lambda step, metrics, loads: lines.append((step, metrics))  # noqa: E731
  return LogHook(period, write, rate)


def test_a_log_line_holds_its_window_and_the_rate_of_its_last_step():
  lines = []
  loop = run(hooks=[make_log_hook(4, lines)])
  assert [step for step, _ in lines] == [4, 8, 10]
  losses = [metrics["train/loss"] for _, metrics in lines]
  assert losses == [2.5, 6.5, 9.5]
  rates = [metrics["train/learning_rate"] for _, metrics in lines]
  assert rates == pytest.approx([0.3, 0.7, 0.9])  # step 4 was taken with the rate of t = 3
  assert all(metrics["train/tokens_per_second"] > 0 for _, metrics in lines)
  assert loop.window == [] and loop.window_seconds == 0.0


def test_a_log_line_without_steps_is_not_written():
  lines = []
  make_log_hook(1, lines)(LoopState(3, start(3)))
  assert lines == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_written_and_stops_the_run_with_exit_code_4(bad):
  lines, saved = [], []
  hooks = [make_log_hook(2, lines), CheckpointHook(2, saved.append)]
  with pytest.raises(DivergedError) as error:
    run(hooks=hooks, batches=[1.0, 1.0, 1.0, bad, 1.0])
  assert error.value.exit_code == 4
  assert "step 4" in error.value.value
  assert f"encoder                    3 {4 * bad:.3g}" in error.value.value  # layer by layer
  assert [step for step, _ in lines] == [2, 4]
  assert len(saved) == 1  # that of step 2


def test_a_state_that_is_not_finite_is_not_saved_though_its_loss_was():
  saved = []
  hook = CheckpointHook(1, saved.append)
  good = LoopState(1, TrainState(jnp.int32(1), {"w": jnp.ones(3)}, ()), [make_metrics(1.0)])
  hook(good)
  assert saved == [good]
  for params, moments in [([1.0, jnp.nan], [0.0]), ([1.0, 1.0], [jnp.inf])]:
    state = TrainState(jnp.int32(2), {"w": jnp.asarray(params)}, {"v": jnp.asarray(moments)})
    with pytest.raises(DivergedError) as error:
      hook(LoopState(2, state, [make_metrics(1.0)]))
    assert (error.value.exit_code, saved) == (4, [good])


def test_evaluation_sees_the_state_after_the_step():
  seen = []
  run(hooks=[EvalHook(5, lambda loop: seen.append(float(loop.state.params)))])
  assert seen == [15.0, 55.0]


def every(seconds: float):
  """Batches that take their time."""
  for batch in itertools.count(1.0):
    time.sleep(seconds)
    yield batch


def test_slow_batches_count_as_input_and_hooks_as_what_they_are():
  hook = EvalHook(5, lambda loop: time.sleep(0.03))
  ledger, began = Ledger(), time.monotonic()
  loop = run(total_steps=10, batches=every(0.02), hooks=[hook], ledger=ledger)
  found, wall = ledger.seconds(), time.monotonic() - began
  assert sum(found.values()) == pytest.approx(wall, abs=0.02)
  assert 0.15 < found[INPUT] < wall
  assert 0.06 <= found[EVALUATION] < 0.2
  assert ledger.step == loop.step == 10
  assert loop.window_seconds >= loop.host_seconds > 0.2


class Clock:
  """Seconds that pass when a test says so."""

  now = 100.0

  def __call__(self) -> float:
    return self.now


def test_batches_that_are_read_while_the_devices_work_cost_no_input_time():
  """Steps of 60 s, on a clock that a test moves."""
  clock = Clock()
  ledger = Ledger(clock=clock)
  step = StepInFlight(ledger)

  def read(seconds):
    step.begin(make_metrics(1.0))
    asked = clock()
    with ledger.measure(INPUT):
      clock.now += seconds
    step.wait(asked, clock())
    return ledger.seconds()[INPUT]

  step.begin(make_metrics(1.0))
  clock.now += 60.0
  step.wait(clock(), clock())  # now it is known how long one takes
  assert read(20.0) == 0.0
  assert read(60.0) == 0.0
  assert read(100.0) == 40.0
  assert step.wait(clock(), clock()) == 0.0  # nothing is in flight
  assert read(100.0) == 80.0
