# SPDX-License-Identifier: Apache-2.0
"""The ledger: every moment counts once. A clock is moved by hand; JAX compiles for real."""

from __future__ import annotations

import threading
import time

import jax
import jax.numpy as jnp
import pytest

from switch_t5.metrics.goodput import (
  CHECKPOINT,
  COMPILATION,
  COMPUTE,
  EVALUATION,
  INPUT,
  KINDS,
  STARTUP,
)
from switch_t5.training.goodput import Ledger


class Clock:
  """Seconds that pass when a test says so."""

  now = 100.0

  def __call__(self) -> float:
    return self.now


@pytest.fixture
def clock():
  return Clock()


@pytest.fixture
def ledger(clock):
  return Ledger(began=95.0, clock=clock)


@pytest.mark.smoke
def test_nested_times_are_counted_once_and_add_up_to_the_wall_time(ledger, clock):
  ledger.enter(COMPUTE)
  clock.now += 1
  with ledger.measure(EVALUATION):
    clock.now += 2
    with ledger.measure(CHECKPOINT):
      clock.now += 4
    clock.now += 8
  clock.now += 16
  found = ledger.seconds()
  want = {STARTUP: 5, COMPUTE: 17, EVALUATION: 10, CHECKPOINT: 4}
  assert found == dict.fromkeys(KINDS, 0.0) | want
  assert sum(found.values()) == clock.now - 95.0


def test_an_error_inside_ends_its_kind(ledger, clock):
  with pytest.raises(KeyError), ledger.measure(INPUT):
    clock.now += 3
    raise KeyError
  clock.now += 1
  assert (ledger.seconds()[INPUT], ledger.seconds()[STARTUP]) == (3, 6)


def test_no_more_is_moved_than_a_kind_has(ledger, clock):
  with ledger.measure(INPUT):
    clock.now += 3
  ledger.move(2, INPUT, COMPUTE)
  ledger.move(2, INPUT, COMPUTE)
  assert (ledger.seconds()[INPUT], ledger.seconds()[COMPUTE]) == (0, 3)


def test_progress_within_a_kind_is_seen(ledger, clock):
  clock.now += 3
  assert ledger.phase == (STARTUP, 95.0)
  ledger.progress()
  assert ledger.phase == (STARTUP, 103.0)


def test_what_is_compiled_inside_an_evaluation_counts_as_compilation():
  ledger, began = Ledger(), time.monotonic()
  with ledger.watch_compilation(), ledger.measure(EVALUATION):
    jax.jit(lambda x: jnp.sin(x) + time.monotonic())(1.0)
    ours = ledger.seconds()
    other = threading.Thread(target=jax.jit(lambda x: jnp.cos(x) - time.monotonic()), args=(1.0,))
    other.start()
    other.join()
  assert 0 < ours[COMPILATION] < time.monotonic() - began
  assert ledger.seconds()[COMPILATION] == ours[COMPILATION]  # the other thread held nobody up
  jax.jit(lambda x: jnp.tan(x) - time.monotonic())(1.0)
  assert ledger.seconds()[COMPILATION] == ours[COMPILATION]  # nobody listens any more
