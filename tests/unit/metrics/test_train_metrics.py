# SPDX-License-Identifier: Apache-2.0
"""From sums to public names."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from switch_t5.metrics.train_metrics import (
  MetricSums,
  StepFlops,
  StepMetrics,
  expert_load_max,
  train_metrics,
  window_means,
)

PUBLIC_NAMES = {
  "train/loss",
  "train/cross_entropy",
  "train/accuracy",
  "train/z_loss",
  "train/load_balance_loss",
  "train/router_z_loss",
  "train/fraction_dropped",
  "train/expert_load_max",
  "train/router_entropy",
  "train/router_confidence",
  "train/dead_experts",
  "train/gradient_norm",
  "train/learning_rate",
  "train/tokens_per_second",
}


def sums(load=((6, 2), (4, 4)), dropped=(1, 0), **changes):
  values = {
    "loss": 5.0,
    "cross_entropy": 40.0,
    "z_loss": 1.0,
    "correct": 2.0,
    "weight": 10.0,
    "load_balance_loss": 0.02,
    "router_z_loss": 0.001,
    "num_tokens": 100.0,
  } | changes
  return MetricSums(
    **{name: jnp.float32(value) for name, value in values.items()},
    expert_load=jnp.asarray(load, jnp.float32),
    num_dropped=jnp.asarray(dropped, jnp.float32),
    routed_tokens=jnp.asarray(load, jnp.float32).sum(axis=-1),
    router_entropy=jnp.asarray(dropped, jnp.float32) + 4.0,
    router_confidence=jnp.asarray(dropped, jnp.float32) + 2.0,
  )


def step(sums):
  """With gradient norms whose squares add up to 13 squared."""
  return StepMetrics(
    sums, {"encoder": np.float32([3.0, 4.0]), "embedding": np.float32(12.0)}, np.bool_(False)
  )


def test_public_names_and_values_of_one_step():
  metrics = train_metrics([step(sums())], seconds=2.0, learning_rate=0.01)
  assert set(metrics) == PUBLIC_NAMES
  assert all(type(value) is float for value in metrics.values())
  expected = {
    "train/loss": 5.0,
    "train/cross_entropy": 4.0,
    "train/accuracy": 0.2,
    "train/z_loss": 0.1,
    "train/load_balance_loss": 0.02,
    "train/router_z_loss": 0.001,
    "train/fraction_dropped": 1 / 16,
    "train/expert_load_max": (6 * 2 / 8 + 4 * 2 / 8) / 2,
    "train/router_entropy": (5 / 8 + 4 / 8) / 2,
    "train/router_confidence": (3 / 8 + 2 / 8) / 2,
    "train/dead_experts": 0.0,
    "train/gradient_norm": 13.0,
    "train/learning_rate": 0.01,
    "train/tokens_per_second": 50.0,
  }
  assert metrics == pytest.approx(expected, rel=1e-6)


def test_mfu_is_the_models_flops_over_the_devices_peak_where_one_is_known():
  steps = [step(sums()), step(sums())]
  given = {"seconds": 4.0, "learning_rate": 0.01}
  known = train_metrics(steps, **given, flops=StepFlops(6e12, 12e12))
  assert set(known) - PUBLIC_NAMES == {"train/model_flops_per_second", "train/mfu"}
  assert known["train/model_flops_per_second"] == 3e12  # two steps of 6e12 in 4 s
  assert known["train/mfu"] == 0.25
  unknown = train_metrics(steps, **given, flops=StepFlops(6e12, None))
  assert set(unknown) - PUBLIC_NAMES == {"train/model_flops_per_second"}


def test_tokens_weigh_alike_and_steps_weigh_alike():
  window = [sums(), sums(cross_entropy=90.0, weight=30.0, loss=3.0, load=((8, 0), (4, 4)))]
  metrics = train_metrics([step(one) for one in window], seconds=2.0, learning_rate=0.01)
  assert metrics["train/cross_entropy"] == pytest.approx(130 / 40)  # not the mean of 4 and 3
  assert metrics["train/loss"] == pytest.approx(4.0)
  # The busiest expert of each step, not that of the window's summed loads.
  assert metrics["train/expert_load_max"] == pytest.approx((1.25 + 1.5) / 2)
  assert metrics["train/tokens_per_second"] == pytest.approx(100.0)


def test_each_router_has_its_own_statistics_over_the_window():
  window = [sums(load=((6, 0), (4, 4)), dropped=(3, 0)), sums(load=((2, 0), (0, 8)))]
  metrics = train_metrics(
    [step(one) for one in window],
    seconds=1.0,
    learning_rate=0.0,
    routers=["encoder/a", "decoder/b"],
  )
  assert set(metrics) - PUBLIC_NAMES == {
    f"router/{router}/{name}"
    for router in ("encoder/a", "decoder/b")
    for name in (
      "fraction_dropped",
      "expert_load_max",
      "expert_load_min",
      "entropy",
      "confidence",
      "dead_experts",
    )
  }
  assert metrics["router/encoder/a/fraction_dropped"] == pytest.approx(4 / 8)
  assert metrics["router/encoder/a/dead_experts"] == 0.5  # its second expert, in both steps
  assert metrics["router/encoder/a/expert_load_max"] == 2.0
  assert metrics["router/encoder/a/entropy"] == pytest.approx((7 + 5) / 8)
  assert metrics["router/decoder/b/expert_load_min"] == pytest.approx(4 / 8)
  assert metrics["router/decoder/b/confidence"] == pytest.approx((2 + 2) / 16)
  assert metrics["train/dead_experts"] == pytest.approx(0.25)


def test_dense_model_reports_no_router():
  dense = sums(load=np.zeros((0, 1)), dropped=(), load_balance_loss=0.0, router_z_loss=0.0)
  metrics = train_metrics([step(dense)], seconds=1.0, learning_rate=0.01)
  router = {"load_balance_loss", "router_z_loss", "fraction_dropped", "expert_load_max"}
  router |= {"router_entropy", "router_confidence", "dead_experts"}
  assert set(metrics) == PUBLIC_NAMES - {f"train/{name}" for name in router}


def test_merged_microbatches_are_the_step():
  merged = jax.jit(MetricSums.merge)(
    sums(load=((6, 2), (4, 4)), loss=2.0), sums(load=((0, 4), (3, 1)), loss=3.0)
  )
  means = window_means([merged])
  assert means["loss"] == 5.0
  assert means["cross_entropy"] == pytest.approx(4.0)
  assert means["expert_load_max"] == pytest.approx((1.0 + 7 * 2 / 12) / 2)


def test_token_counts_beyond_float32_stay_exact():
  means = window_means([sums(weight=2.0**24, cross_entropy=2.0**24)] + [sums(weight=1.0)] * 3)
  assert means["accuracy"] == pytest.approx(8 / (2**24 + 3), rel=1e-9)


def test_nan_is_passed_on():
  assert np.isnan(window_means([sums(), sums(loss=float("nan"))])["loss"])


def test_padding_alone_does_not_divide_by_zero():
  means = window_means([sums(weight=0.0, cross_entropy=0.0, load=((0, 0),), dropped=(0,))])
  assert means["cross_entropy"] == means["fraction_dropped"] == means["expert_load_max"] == 0.0


def test_even_load_is_one_and_a_single_busy_expert_is_the_number_of_experts():
  assert expert_load_max(np.full((3, 8), 5.0)) == 1.0
  assert expert_load_max(np.eye(8)[:1] * 40.0) == 8.0
