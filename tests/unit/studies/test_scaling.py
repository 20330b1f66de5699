# SPDX-License-Identifier: Apache-2.0
"""The law over the points of `study scaling`, and what the other studies say of plain runs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from switch_t5.layers.moe.capacity import expected_fraction_dropped
from switch_t5.reports import study_page
from switch_t5.studies.balance import BALANCE, steps_until_even
from switch_t5.studies.capacity import CAPACITY
from switch_t5.studies.curves import Run
from switch_t5.studies.family import outcome
from switch_t5.studies.init import INIT, rise
from switch_t5.studies.paired import Interval
from switch_t5.studies.precision import PRECISION
from switch_t5.studies.scaling import SCALING, fit


def loss_of(size, experts):
  logs = math.log(size), math.log(experts)
  return math.exp(-0.08 * logs[0] - 0.1 * logs[1] + 0.004 * logs[0] * logs[1] + 2.5)


def test_the_law_of_points_that_follow_it_is_found_again():
  points = [(n, e, loss_of(n, e)) for n in (1e6, 4e6, 2e7) for e in (1, 2, 8)]
  law = fit(points)
  found = {name: value.estimate for name, value in law.coefficients.items()}
  assert found == pytest.approx({"a": -0.08, "b": -0.1, "c": 0.004, "d": 2.5}, rel=1e-6)
  assert law.residual < 1e-9


def test_of_models_of_one_size_only_what_the_points_tell_is_fitted():
  noise = np.random.default_rng(0).normal(scale=1e-3, size=10)
  points = [
    (1e6, e, loss_of(1e6, e) * math.exp(x))
    for e, x in zip([1, 2, 4, 8, 16] * 2, noise, strict=True)
  ]
  law = fit(points)
  assert set(law.coefficients) == {"b", "d"}
  b = law.coefficients["b"]
  assert b.low < -0.1 + 0.004 * math.log(1e6) < b.high
  few = fit(points[:2]).coefficients
  assert not any(isinstance(value, Interval) for value in few.values())
  with pytest.raises(ValueError, match="do not determine"):
    fit([(1e6, 1, 5.0), (2e6, 2, 4.0), (4e6, 4, 3.0)])


def run_of(arm, seed, losses, **metrics):
  facts = {
    **{"parameters": 1e6, "flops_per_sequence": 2e8, "num_experts": 8.0},
    **{"encoder_group": 512.0, "capacity_factor": 1.25},
  }
  held_out = {"eval/text/cross_entropy": [(10 * (i + 1), x) for i, x in enumerate(losses)]}
  rates = {"train/tokens_per_second": [(10, 1000.0 - 10 * seed)]}
  return Run(arm, seed, 10 * len(losses), "text", held_out | rates | metrics, facts)


def text_of(family, runs):
  return study_page.markdown(outcome(family, "A title", runs).content)


def test_scaling_says_speed_ups_equal_flops_and_which_coefficients_it_cannot_know():
  runs = {
    arm.name: [
      run_of(arm.name, seed, [6.0 - 0.1 * place, 5.0 - 0.1 * place - 0.01 * seed])
      for seed in (0, 1)
    ]
    for place, arm in enumerate(SCALING.arms)
  }
  for place, of_arm in enumerate(runs.values()):
    of_arm[:] = [
      r._replace(facts=r.facts | {"num_experts": 2.0**place * (place > 0)}) for r in of_arm
    ]
  text = text_of(SCALING, runs)
  assert "| dense | -1.693 |" in text
  # As good as the dense model at its end after 10 + 10 (0.9 + 0.01 seed) / (1 + 0.01 seed) steps.
  assert "| 1.05 (1.0" in text
  assert "All arms take 2e+08 forward FLOPs" in text
  assert "a and c cannot be told from d" in text
  assert outcome(SCALING, "A title", runs).json["law"]["points"] == 10


def test_capacity_shows_the_closed_form_beside_what_was_dropped():
  dropped = {"router/encoder/layer_1/mlp/fraction_dropped": [(10, 0.1), (20, 0.2)]}
  runs = {
    arm.name: [run_of(arm.name, s, [5.0, 4.0], **dropped) for s in (0, 1)] for arm in CAPACITY.arms
  }
  text = text_of(CAPACITY, runs)
  assert f"| 15.00% | {expected_fraction_dropped(1.25, 512, 8):.2%} |" in text


def test_balance_says_from_when_on_the_load_is_even():
  loads = {"alpha0": [3.0, 5.0, 7.0], "alpha0.001": [3.0, 1.2, 1.5], "alpha0.01": [2.0, 1.2, 1.1]}
  runs = {
    arm.name: [
      run_of(
        *(arm.name, seed, [5.0, 4.0, 3.0]),
        **{
          "router/encoder/layer_1/mlp/expert_load_max": list(
            zip((10, 20, 30), loads.get(arm.name, [1, 1, 1]), strict=True)
          )
        },
      )
      for seed in (0, 1)
    ]
    for arm in BALANCE.arms
  }
  found = [steps_until_even(runs, arm) for arm in runs]
  assert found == [None, None, 20, 10]
  assert (
    "alpha = 0 not to the end; alpha = 0.001 not to the end; alpha = 0.01 from step 20"
    in text_of(BALANCE, runs)
  )


def test_init_compares_standard_deviations():
  losses = [run_of("scale0.1", s, [5.0, 4.0 + 0.01 * s]) for s in range(3)]
  usual = [run_of("scale1.0", s, [5.0, 4.0 + 0.1 * s]) for s in range(3)]
  assert "10.0 times the standard deviation" in text_of(
    INIT, {"scale0.1": losses, "scale1.0": usual}
  )
  spiky = Run("a", 0, 3, "t", {"train/cross_entropy": [(1, 5.0), (2, 3.0), (3, 4.5), (4, 2.0)]})
  assert rise(spiky, spiky) == 1.5


def test_precision_shows_flips_collisions_and_bytes_where_they_were_measured():
  runs = {arm.name: [run_of(arm.name, s, [5.0, 4.0]) for s in (0, 1)] for arm in PRECISION.arms}
  assert "Bytes" not in text_of(PRECISION, runs)
  probed = {
    "float32": {
      **{
        "all_to_all_bytes": 2000,
        "all_to_all_bytes_needed": 2000,
        "routed_tokens": 1000,
        "flips_float32": 0,
        "flips_bfloat16": 12,
      },
      **{"colliding_in_groups_of_512": 0, "routed_in_groups_of_512": 512},
    },
    "selective": {"all_to_all_bytes": 2000, "all_to_all_bytes_needed": 1000},
  }
  for arm, of_arm in runs.items():
    of_arm[:] = [run._replace(facts=run.facts | probed[arm]) for run in of_arm]
  text = text_of(PRECISION, runs)
  assert (
    "| bfloat16, router in float32 | 1,000 | 2,000 |" in text
    and "12 of 1,000 (1.20%)" in text
    and "groups of 512 | 0 of 512" in text
  )
