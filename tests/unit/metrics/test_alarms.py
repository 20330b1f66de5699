# SPDX-License-Identifier: Apache-2.0
"""Alarms: when they sound, once, and when not."""

from __future__ import annotations

import pytest

from switch_t5.metrics.alarms import AlarmConfig, Alarms, all_alarms

GOOD = {
  "train/cross_entropy": 4.0,
  "train/load_balance_loss": 0.02,
  "train/fraction_dropped": 0.01,
  "router/encoder_1/expert_load_max": 1.2,
  "router/encoder_1/dead_experts": 0.0,
}


def kinds(rows, num_experts=8, **config):
  rows = [GOOD | row | {"step": 1000 + i} for i, row in enumerate(rows)]
  return [(a.kind, a.step) for a in all_alarms(rows, AlarmConfig(**config), num_experts)]


@pytest.mark.parametrize(
  ("row", "kind"),
  [
    ({"router/decoder_1/expert_load_max": 4.1, "train/load_balance_loss": 0.05}, "collapse"),
    ({"router/encoder_1/dead_experts": 0.2}, "dead experts"),
    ({"train/fraction_dropped": 0.2}, "drops"),
  ],
)
def test_an_alarm_sounds_once_while_it_lasts_and_again_after_it_was_quiet(row, kind):
  assert kinds([row] * 5) == [(kind, 1000)]
  assert kinds([row, *[{}] * 9, row]) == [(kind, 1000)]
  assert kinds([row, *[{}] * 10, row]) == [(kind, 1000), (kind, 1011)]


def test_a_run_that_goes_well_sounds_none():
  assert kinds([{"train/load_balance_loss": 0.02 - i * 1e-5} for i in range(50)]) == []


def test_a_jump_of_the_loss_sounds_and_a_fall_does_not():
  assert kinds([{}] * 10 + [{"train/cross_entropy": 4.6}]) == [("spike", 1010)]
  assert kinds([{}] * 10 + [{"train/cross_entropy": 3.0}]) == []
  assert kinds([{}] * 10 + [{"train/cross_entropy": float("nan")}]) == []


def test_a_router_loss_that_does_not_move_while_the_load_is_uneven_sounds():
  uneven = {"router/encoder_1/expert_load_max": 2.0}
  assert kinds([uneven] * 11) == [("router", 1010)]
  assert kinds([{}] * 11) == []


def test_two_experts_collapse_below_the_limit_of_many():
  row = {"router/encoder_1/expert_load_max": 1.6}
  assert kinds([row], num_experts=2) == [("collapse", 1000)]
  assert kinds([row], num_experts=8) == []


def test_nothing_is_said_of_routers_in_the_first_steps():
  row = {"step": 10} | GOOD | {"train/fraction_dropped": 0.9}
  assert Alarms(AlarmConfig(), 8).see(10, row) == []


def test_an_alarm_names_the_cause_and_the_gin_line():
  rows = [GOOD | {"step": 300, "router/decoder_1/expert_load_max": 7.5}]
  text = str(all_alarms(rows, AlarmConfig(), 8)[0])
  assert "step 300" in text
  assert "decoder_1 has 7.5 times" in text
  assert "LossConfig.load_balance_factor = 0.01" in text
