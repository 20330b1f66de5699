# SPDX-License-Identifier: Apache-2.0
"""Where the time of a run's process goes, kind by kind: a ledger of exclusive times."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import jax

from switch_t5.metrics.goodput import COMPILATION, COMPUTE, INPUT, KINDS, STARTUP
from switch_t5.metrics.train_metrics import StepMetrics

_COMPILED = "/jax/core/compile/backend_compile_duration"  # JAX tells listeners after each


class Ledger:
  """Counts every moment to one kind; what is measured inside something else is not counted twice.

  One thread enters kinds; others may look. Entering takes a reading of the clock and no lock.

  Attributes:
    clock: what is read.
    step: steps handed to the device; set by the loop.

  Args:
    began: `time.monotonic()` where the time begins, which counts as start-up; None: now.
    clock: seconds that never go back.
  """

  def __init__(self, began: float | None = None, clock: Callable[[], float] = time.monotonic):
    self.clock = clock
    self._phase = (STARTUP, clock() if began is None else began)  # one object: others read it
    self._seconds = dict.fromkeys(KINDS, 0.0)
    self._thread = threading.get_ident()
    self.step = 0

  @property
  def phase(self) -> tuple[str, float]:
    """The kind now, and when it was entered or told of progress: of the clock."""
    return self._phase

  def enter(self, kind: str) -> str:
    """Counts time to `kind` from now on; returns the kind before."""
    now, (before, since) = self.clock(), self._phase
    self._seconds[before] += now - since
    self._phase = (kind, now)
    return before

  def progress(self) -> None:
    """Tells those who watch that something has moved within the kind."""
    self.enter(self._phase[0])

  @contextlib.contextmanager
  def measure(self, kind: str) -> Iterator[None]:
    """Counts the time inside to `kind`, then goes on with the kind before."""
    before = self.enter(kind)
    try:
      yield
    finally:
      self.enter(before)

  def move(self, seconds: float, source: str, target: str) -> None:
    """Counts so much of a kind's time, or all of it if it is less, to another kind after all."""
    seconds = min(seconds, self._seconds[source])
    self._seconds[source] -= seconds
    self._seconds[target] += seconds

  def seconds(self) -> dict[str, float]:
    """Returns the seconds of each of `KINDS` up to now; their sum is all time since the start."""
    self.progress()
    return dict(self._seconds)

  @contextlib.contextmanager
  def watch_compilation(self) -> Iterator[None]:
    """Counts as compilation what JAX compiles on this thread, inside whatever it happens."""

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
      if event == _COMPILED and threading.get_ident() == self._thread:
        self.progress()
        self.move(duration_secs, self._phase[0], COMPILATION)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
      yield
    finally:
      jax.monitoring.unregister_event_duration_listener(listen)


class StepInFlight:
  """The step that the devices work on, and which part of a wait for input it covered.

  A reader that is slower than a step lets the devices stand still for the difference alone. How long
  a step takes was seen where the loop waited for one's end, at the latest at the last log line.

  Args:
    ledger: is told.
  """

  def __init__(self, ledger: Ledger):
    self._ledger = ledger
    self._metrics: StepMetrics | None = None
    self._began = self._takes = 0.0

  def begin(self, metrics: StepMetrics) -> None:
    """Is told what a step that was handed to the devices will give."""
    self._metrics, self._began = metrics, self._ledger.clock()

  def wait(self, asked: float, came: float) -> float:
    """Waits for the step, if there is one, and returns how long.

    Args:
      asked: when the loop asked for the next batch; of the ledger's clock.
      came: when it had it; the same if it did not ask for one.
    """
    if self._metrics is None:
      return 0.0
    is_seen = came == asked or not self._metrics.sums.loss.is_ready()  # type: ignore[attr-defined]
    started = self._ledger.clock()
    jax.block_until_ready(self._metrics)
    self._metrics, ended = None, self._ledger.clock()
    if is_seen:
      self._takes = ended - self._began
    covered = min(came, self._began + self._takes) - asked
    self._ledger.move(max(0.0, covered), INPUT, COMPUTE)
    return ended - started
