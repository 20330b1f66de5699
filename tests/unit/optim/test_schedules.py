# SPDX-License-Identifier: Apache-2.0
"""Learning-rate schedules against their closed forms."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from switch_t5.errors import ConfigError
from switch_t5.optim.schedules import learning_rate_schedule

STEPS = (0, 1, 7, 10, 11, 25, 40, 99, 100, 101, 250)
CLOSED_FORMS = {  # base_learning_rate 0.5, warmup 10, decay_factor 0.25, decay 40, cycle 100
  "constant": lambda t: 0.5,
  "linear_warmup": lambda t: min(1.0, t / 10),
  "linear_decay": lambda t: 0.5 * min(t / 10, 1 + 0.25 * (10 - t)),
  "rsqrt_decay": lambda t: 1 / math.sqrt(max(t, 10)),
  "rsqrt_normalized_decay": lambda t: math.sqrt(10) / math.sqrt(max(t, 10)),
  "decay_every": lambda t: 0.25 ** (t // 40),
  "cosine_decay": lambda t: 0.5 * (1 + math.cos(math.pi * (max(0, t - 10) / 100 % 1))),
}


def make(factors, **kwargs):
  settings = {
    "base_learning_rate": 0.5,
    "warmup_steps": 10,
    "decay_factor": 0.25,
    "steps_per_decay": 40,
    "steps_per_cycle": 100,
  }
  return learning_rate_schedule(factors, **(settings | kwargs))


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_factor_equals_its_closed_form(name):
  rates = [make(name)(step) for step in STEPS]
  expected = [max(1e-8, CLOSED_FORMS[name](step)) for step in STEPS]
  np.testing.assert_allclose(rates, expected, rtol=1e-5, atol=1e-8)


def test_factors_multiply():
  rates = [make("constant * linear_warmup*rsqrt_decay")(step) for step in STEPS[1:]]
  names = ("constant", "linear_warmup", "rsqrt_decay")
  expected = [math.prod(CLOSED_FORMS[name](step) for name in names) for step in STEPS[1:]]
  np.testing.assert_allclose(rates, expected, rtol=1e-6)


def test_default_is_t5_pretraining():
  schedule = jax.jit(learning_rate_schedule())
  for step in (0, 1, 9_999, 10_000, 10_001, 250_000, 2_000_000):
    rate = schedule(jnp.int32(step))
    assert rate.dtype == jnp.float32 and rate.shape == ()
    np.testing.assert_allclose(rate, 1 / math.sqrt(max(step, 1e4)), rtol=1e-6)


def test_offset_shifts_and_stops_at_zero():
  shifted = make("linear_warmup", step_offset=1000, min_learning_rate=0.0)
  assert shifted(500) == 0.0
  np.testing.assert_allclose(shifted(1005), 0.5, rtol=1e-6)


def test_decay_every_changes_at_the_exact_step():
  schedule = jax.jit(learning_rate_schedule("decay_every", steps_per_decay=3))
  assert [float(schedule(step)) for step in range(7)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]


def test_misspelt_factor_is_named_with_a_suggestion():
  with pytest.raises(ConfigError, match="Did you mean rsqrt_decay"):
    learning_rate_schedule("constant * rsqrt_dekay")
  with pytest.raises(ConfigError, match="Unknown factor"):
    learning_rate_schedule("")


def test_zero_warmup_is_refused():
  with pytest.raises(ConfigError, match="warmup_steps >= 1"):
    learning_rate_schedule(warmup_steps=0)
