# SPDX-License-Identifier: Apache-2.0
"""Cross-entropy and z-loss against log_softmax, differentiated by JAX."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from switch_t5.losses.cross_entropy import cross_entropy_with_z_loss

TOKENS, VOCAB, Z_LOSS = 12, 40, 0.3  # a z-loss large enough to show in the gradient


def inputs(seed=0, scale=3.0):
  rng = np.random.default_rng(seed)
  logits = jnp.asarray(scale * rng.normal(size=(TOKENS, VOCAB)), jnp.float32)
  targets = rng.integers(0, VOCAB, TOKENS)
  targets[:2] = 0, VOCAB - 1
  return logits, jnp.asarray(targets, jnp.int32)


def naive(logits, targets, z_loss):
  log_z = jnp.log(jnp.exp(logits).sum(axis=-1))
  nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[:, None], axis=-1)[:, 0]
  return nll, z_loss * log_z**2


def test_values_equal_log_softmax():
  logits, targets = inputs()
  for got, expected in zip(
    cross_entropy_with_z_loss(logits, targets, Z_LOSS), naive(logits, targets, Z_LOSS), strict=True
  ):
    assert got.shape == (TOKENS,) and got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("zero", [None, "nll", "z"])
def test_gradient_for_separate_cotangents(zero):
  logits, targets = inputs()
  rng = np.random.default_rng(1)
  cotangents = tuple(
    jnp.asarray(
      0.0 * rng.normal(size=TOKENS) if name == zero else rng.normal(size=TOKENS), jnp.float32
    )
    for name in ("nll", "z")
  )
  _, pullback = jax.vjp(lambda x: cross_entropy_with_z_loss(x, targets, Z_LOSS), logits)
  _, naive_pullback = jax.vjp(lambda x: naive(x, targets, Z_LOSS), logits)
  np.testing.assert_allclose(
    pullback(cotangents)[0], naive_pullback(cotangents)[0], rtol=1e-5, atol=1e-6
  )


@pytest.mark.parametrize("smoothing", [0.1, 0.6])
def test_label_smoothing_is_the_cross_entropy_with_smoothed_targets_less_their_entropy(smoothing):
  logits, targets = inputs()

  def smoothed(logits):
    probs = jnp.full((TOKENS, VOCAB), smoothing / (VOCAB - 1))
    probs = probs.at[jnp.arange(TOKENS), targets].set(1.0 - smoothing)
    loss = (probs * (jnp.log(probs) - jax.nn.log_softmax(logits))).sum(axis=-1)
    return loss, naive(logits, targets, Z_LOSS)[1]

  total = lambda losses: sum(map(jnp.sum, losses))  # noqa: E731
  ours = lambda x: cross_entropy_with_z_loss(x, targets, Z_LOSS, smoothing)  # noqa: E731
  for got, want in zip(ours(logits), smoothed(logits), strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
  got = jax.grad(lambda x: total(ours(x)))(logits)
  want = jax.grad(lambda x: total(smoothed(x)))(logits)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_large_logits_do_not_overflow():
  logits, targets = inputs(scale=1e4)
  nll, z = cross_entropy_with_z_loss(logits, targets, 1e-4)
  assert np.isfinite(nll).all() and np.isfinite(z).all()
  gradient = jax.grad(lambda x: sum(map(jnp.sum, cross_entropy_with_z_loss(x, targets, 1e-4))))(
    logits
  )
  assert np.isfinite(gradient).all()


def test_backward_keeps_one_number_per_token_beside_the_arguments():
  logits, targets = inputs()
  _, pullback = jax.vjp(lambda x: cross_entropy_with_z_loss(x, targets, Z_LOSS), logits)
  saved = [leaf for leaf in jax.tree.leaves(pullback) if leaf is not logits and leaf is not targets]
  assert sum(leaf.size for leaf in saved if leaf.shape == logits.shape) <= logits.size
  assert all(leaf.size <= TOKENS for leaf in saved if leaf.shape != logits.shape)


def test_logits_sharded_over_the_vocabulary_are_not_gathered():
  mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
  logits, targets = inputs()
  sharded = jax.device_put(logits, NamedSharding(mesh, PartitionSpec("data", "model")))
  rows = jax.device_put(targets, NamedSharding(mesh, PartitionSpec("data")))

  def loss_and_gradient(logits, targets):
    return jax.value_and_grad(
      lambda x: sum(map(jnp.sum, cross_entropy_with_z_loss(x, targets, Z_LOSS)))
    )(logits)

  lowered = jax.jit(loss_and_gradient, out_shardings=(None, sharded.sharding)).lower(sharded, rows)
  program = lowered.compile().as_text()
  assert "all-reduce" in program and "all-gather" not in program
  expected = loss_and_gradient(logits, targets)
  got = jax.jit(loss_and_gradient)(sharded, rows)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, expected)
