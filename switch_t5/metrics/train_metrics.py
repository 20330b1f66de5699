# SPDX-License-Identifier: Apache-2.0
"""From sums of steps on the device to the names that are logged.

A step returns sums, never means: sums of microbatches add up to those of the batch. They stay on the
device until a log window ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from switch_t5.types import Array

# Sums of which there is one, not one of each router.
_NUMBERS = frozenset(
  [
    "loss",
    "cross_entropy",
    "z_loss",
    "correct",
    "weight",
    "load_balance_loss",
    "router_z_loss",
    "num_tokens",
  ]
)


class MetricSums(NamedTuple):
  """Sums over a microbatch, or over a step; all float32.

  Attributes:
    loss: [], what is optimised.
    cross_entropy: [], sum over target tokens of weight * nll, in nats.
    z_loss: [], the same sum of the z-loss, its factor included.
    correct: [], sum of the weights of target tokens that were the most likely ones.
    weight: [], sum of the weights of target tokens.
    load_balance_loss: [], as it enters the loss: with its factor and the microbatch's fraction.
    router_z_loss: [], as it enters the loss.
    expert_load: [routers, E], choices of the expert by real tokens, before any is dropped. A sparse
      layer has a router, or two where its attention is sparse too.
    num_dropped: [routers], choices that found their expert full, or tokens that no expert chose.
    routed_tokens: [routers], real tokens.
    router_entropy: [routers], sum over real tokens of the entropy of their router probabilities, in nats.
    router_confidence: [routers], sum over real tokens of their greatest router probability.
    num_tokens: [], real tokens of encoder and decoder, for the throughput.
    soft_cross_entropy: [], the same sum as `cross_entropy` with a teacher's probabilities in place of
      the targets; None without a teacher.
  """

  loss: Array
  cross_entropy: Array
  z_loss: Array
  correct: Array
  weight: Array
  load_balance_loss: Array
  router_z_loss: Array
  expert_load: Array
  num_dropped: Array
  routed_tokens: Array
  router_entropy: Array
  router_confidence: Array
  num_tokens: Array
  soft_cross_entropy: Array | None = None

  def merge(self, other: MetricSums) -> MetricSums:
    """Adds the sums of another microbatch of the same step."""
    return jax.tree.map(lambda x, y: x + y, self, other)


class StepMetrics(NamedTuple):
  """What a training step reports.

  Attributes:
    sums: over the step.
    gradient_norms: L2, float32, of each layer and of what is in none, by name.
    is_bad: bool [], whether the loss or the gradients are not finite or beyond the run's limits.
  """

  sums: MetricSums
  gradient_norms: dict[str, Array]
  is_bad: Array


def window_means(steps: Sequence[MetricSums]) -> dict[str, float]:
  """Returns the means over a window of steps (or of evaluation batches), by name without prefix.

  What is per token is summed over the window, then divided: a step with more real tokens counts
  more. What is per step (losses of the router, the greatest load) is averaged over steps. Names of
  the router are left out if the model has no sparse layer.

  Args:
    steps: at least one; on the device or the host.
  """
  # float64: a float32 count of tokens is exact only up to 2^24.
  host = [jax.tree.map(_as_float64, step) for step in jax.device_get(list(steps))]
  given = [name for name in MetricSums._fields if getattr(host[0], name) is not None]
  total = {name: sum(getattr(step, name) for step in host) for name in given}
  weight = max(float(total["weight"]), 1.0)
  means = {
    "loss": total["loss"] / len(host),
    "cross_entropy": total["cross_entropy"] / weight,
    "accuracy": total["correct"] / weight,
    "z_loss": total["z_loss"] / weight,
  }
  if "soft_cross_entropy" in total:
    means["soft_cross_entropy"] = total["soft_cross_entropy"] / weight
  if total["expert_load"].size:
    means |= {
      "load_balance_loss": total["load_balance_loss"] / len(host),
      "router_z_loss": total["router_z_loss"] / len(host),
      "fraction_dropped": total["num_dropped"].sum() / max(total["expert_load"].sum(), 1.0),
      "expert_load_max": np.mean([expert_load_max(step.expert_load) for step in host]),
    }
    of_routers = router_statistics(host)
    means |= {f"router_{name}": of_routers[name].mean() for name in ("entropy", "confidence")} | {
      "dead_experts": of_routers["dead_experts"].mean()
    }
  return {name: float(value) for name, value in means.items()}


def mean_names(has_routers: bool) -> list[str]:
  """Returns the names that `window_means` gives, of a model with or without routers."""
  of_routers = (int(has_routers),)
  names = [name for name in MetricSums._fields if name not in MetricSums._field_defaults]
  shapes: dict[str, Any] = {n: () if n in _NUMBERS else of_routers for n in names}
  shapes["expert_load"] = (*of_routers, 1)
  zeros: dict[str, Any] = {name: np.zeros(shape) for name, shape in shapes.items()}
  return list(window_means([MetricSums(**zeros)]))


def _as_float64(x):
  return np.asarray(x, np.float64)


def expert_load_max(expert_load: np.ndarray) -> float:
  """Returns the load of the busiest expert over the mean load, averaged over routers; 1 is even.

  Args:
    expert_load: [routers, E], of one step.
  """
  return float(np.mean(relative_load(expert_load).max(axis=-1)))


def relative_load(expert_load: np.ndarray) -> np.ndarray:
  """Returns each expert's load over the mean load of its router, [routers, E]."""
  choices = np.maximum(expert_load.sum(axis=-1, keepdims=True), 1.0)
  return expert_load * expert_load.shape[-1] / choices


def router_statistics(steps: Sequence[MetricSums]) -> dict[str, np.ndarray]:
  """Returns what a window of steps says of each router, [routers] each.

  The fraction of choices dropped; the loads of the busiest and of the idlest expert, relative to the
  mean; entropy (nats) and greatest probability of the router, means over tokens; and the fraction of
  experts that no token of the window chose.

  Args:
    steps: at least one, on the host, in float64.
  """

  def total(name: str) -> np.ndarray:
    return np.sum([getattr(step, name) for step in steps], axis=0)

  load = total("expert_load")
  tokens = np.maximum(total("routed_tokens"), 1.0)
  choices = np.maximum(load.sum(axis=-1), 1.0)
  return {
    "fraction_dropped": total("num_dropped") / choices,
    "expert_load_max": relative_load(load).max(axis=-1),
    "expert_load_min": relative_load(load).min(axis=-1),
    "entropy": total("router_entropy") / tokens,
    "confidence": total("router_confidence") / tokens,
    "dead_experts": (load == 0).mean(axis=-1),
  }


class StepFlops(NamedTuple):
  """What a step is measured by.

  Attributes:
    model: FLOPs of the model in one step, all devices together.
    peak: FLOP/s of all devices together at their best; None: not known.
  """

  model: float
  peak: float | None


def train_metrics(
  steps: Sequence[StepMetrics],
  *,
  seconds: float,
  learning_rate: float,
  routers: Sequence[str] = (),
  flops: StepFlops | None = None,
) -> dict[str, float]:
  """Returns what is logged for a window of training steps, by public name.

  `train/...` is of the whole model, `router/NAME/...` of one router (`router_statistics`).

  Args:
    steps: the window's, at least one, on the host.
    seconds: the window's wall time.
    learning_rate: that of the window's last step.
    routers: their names, in the order in which the model reports them.
    flops: of a step, if they were counted.
  """
  sums = [step.sums for step in steps]
  num_tokens = sum(float(step.num_tokens) for step in sums)
  metrics = window_means(sums) | {
    "gradient_norm": float(np.mean([total_norm(step.gradient_norms) for step in steps])),
    "learning_rate": float(learning_rate),
    "tokens_per_second": num_tokens / seconds,
  }
  if flops is not None:
    metrics["model_flops_per_second"] = achieved = flops.model * len(steps) / seconds
    if flops.peak is not None:
      metrics["mfu"] = achieved / flops.peak
  public = {f"train/{name}": value for name, value in metrics.items()}
  if routers:
    host = [jax.tree.map(_as_float64, step) for step in sums]
    for name, values in router_statistics(host).items():
      public |= {
        f"router/{router}/{name}": float(value)
        for router, value in zip(routers, values, strict=True)
      }
  return public


def total_norm(norms: dict[str, Array]) -> float:
  """Returns the L2 norm of all, of norms of parts by name, on the host."""
  return float(np.sqrt(sum(np.square(_as_float64(norm)).sum() for norm in norms.values())))
