# SPDX-License-Identifier: Apache-2.0
"""The optimised loss: its terms, and that microbatches add up to the batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from switch_t5.errors import ConfigError
from switch_t5.losses.objective import LossConfig, total_loss

TOKENS, VOCAB = 12, 16


def inputs():
  rng = np.random.default_rng(0)
  logits = jnp.asarray(rng.normal(size=(TOKENS, VOCAB)), jnp.float32)
  targets = jnp.asarray(rng.integers(0, VOCAB, TOKENS), jnp.int32)
  weights = jnp.asarray([1, 1, 1, 1, 1, 1, 0.5, 0, 0, 0, 0, 0], jnp.float32)
  return logits, targets, weights


def call(
  config, logits, targets, weights, *, load_balance=(), router_z=(), count=None, fraction=1.0
):
  return total_loss(
    config,
    logits=logits,
    targets=targets,
    weights=weights,
    loss_weights=weights,
    normalizer=weights.sum() if count is None else count,
    load_balance_losses=jnp.asarray(load_balance, jnp.float32),
    router_z_losses=jnp.asarray(router_z, jnp.float32),
    microbatch_fraction=fraction,
  )


def test_terms_add_up_as_the_paper_says():
  logits, targets, weights = inputs()
  config = LossConfig(z_loss=0.1, load_balance_factor=0.01, router_z_loss_factor=0.001)
  loss, sums = call(config, logits, targets, weights, load_balance=[1.0, 1.5], router_z=[4.0, 8.0])
  x = np.asarray(logits, np.float64)
  log_z = np.log(np.exp(x).sum(axis=-1))
  nll = log_z - x[np.arange(TOKENS), targets]
  np.testing.assert_allclose(sums.cross_entropy, (weights * nll).sum(), rtol=1e-6)
  np.testing.assert_allclose(sums.z_loss, (weights * 0.1 * log_z**2).sum(), rtol=1e-6)
  np.testing.assert_allclose(sums.load_balance_loss, 0.025, rtol=1e-6)
  np.testing.assert_allclose(sums.router_z_loss, 0.012, rtol=1e-6)
  assert sums.weight == 6.5
  expected = (weights * (nll + 0.1 * log_z**2)).sum() / 6.5 + 0.025 + 0.012
  np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_mean_over_sparse_layers_is_an_option():
  config = LossConfig(load_balance_factor=1.0, load_balance_reduction="mean")
  _, sums = call(config, *inputs(), load_balance=[1.0, 2.0], router_z=[0.0, 0.0])
  assert sums.load_balance_loss == 1.5


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_dense_model_has_no_router_loss(reduction):
  loss, sums = call(LossConfig(load_balance_reduction=reduction), *inputs())
  assert sums.load_balance_loss == sums.router_z_loss == 0.0
  assert np.isfinite(loss)


def test_microbatches_with_unequal_weights_add_up_to_the_batch():
  logits, targets, weights = inputs()
  config = LossConfig(z_loss=0.1, router_z_loss_factor=1e-3)
  # Groups never cross microbatches, so the batch's router losses are means of the microbatches'.
  balance = np.asarray([[1.0, 1.5], [2.0, 3.0]], np.float32)

  def batch_loss(x):
    return call(config, x, targets, weights, load_balance=balance.mean(0), router_z=balance.mean(0))

  def sum_of_microbatches(x):
    parts = [
      call(
        config,
        x[rows],
        targets[rows],
        weights[rows],
        load_balance=losses,
        router_z=losses,
        count=weights.sum(),
        fraction=0.5,
      )
      for rows, losses in zip((slice(0, 6), slice(6, 12)), balance, strict=True)
    ]
    return jax.tree.map(lambda a, b: a + b, *parts)

  expected = jax.value_and_grad(batch_loss, has_aux=True)(logits)
  got = jax.value_and_grad(sum_of_microbatches, has_aux=True)(logits)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), got, expected)


def test_correct_is_weighted_and_counts_a_target_that_shares_the_greatest_logit():
  logits = jnp.asarray([[0, 2, 2, 1], [0, 2, 3, 1], [3, 0, 0, 0], [0, 0, 0, 9]], jnp.float32)
  targets = jnp.asarray([2, 1, 0, 3], jnp.int32)
  weights = jnp.asarray([1.0, 1.0, 0.5, 0.0], jnp.float32)
  _, sums = call(LossConfig(), logits, targets, weights)
  assert sums.correct == 1.5


def test_padding_carries_no_gradient():
  logits, targets, weights = inputs()
  gradient = jax.grad(lambda x: call(LossConfig(), x, targets, weights)[0])(logits)
  assert np.all(gradient[7:] == 0) and np.all(gradient[:7] != 0)


def test_logits_sharded_over_the_vocabulary_are_not_gathered():
  mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
  logits, targets, weights = inputs()
  sharded = jax.device_put(logits, NamedSharding(mesh, PartitionSpec("data", "model")))
  step = jax.jit(
    jax.value_and_grad(lambda x: call(LossConfig(), x, targets, weights), has_aux=True),
    out_shardings=(None, sharded.sharding),
  )
  text = step.lower(sharded).compile().as_text()
  gathered = [line for line in text.splitlines() if "all-gather(" in line]
  assert not any(f"{VOCAB}]" in line for line in gathered), gathered
  (loss, sums), _ = step(sharded)
  expected = call(LossConfig(), logits, targets, weights)
  np.testing.assert_allclose(loss, expected[0], rtol=1e-6)
  assert sums.correct == expected[1].correct


@pytest.mark.parametrize(
  "settings",
  [
    {"z_loss": -1e-4},
    {"load_balance_factor": float("nan")},
    {"router_z_loss_factor": float("inf")},
  ],
)
def test_factor_that_is_no_factor_is_refused(settings):
  with pytest.raises(ConfigError, match=next(iter(settings))):
    LossConfig(**settings)


def test_misspelt_reduction_is_refused_with_a_suggestion():
  with pytest.raises(ConfigError, match="Did you mean mean"):
    LossConfig(load_balance_reduction="meam")
