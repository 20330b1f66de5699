# SPDX-License-Identifier: Apache-2.0
"""The router: its choice, its jitter, its losses and its counts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from switch_t5.layers.moe.router import jitter, top1
from switch_t5.layers.moe.router_losses import load_balance_loss, router_z_loss
from switch_t5.layers.moe.router_statistics import RouterReport, expert_load, over_groups


def all_real(*shape):
  return jnp.ones(shape, bool)


def test_a_token_goes_to_its_most_probable_expert_scaled_by_the_raw_probability():
  probs = jnp.asarray([[[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]]], jnp.float32)
  routing = top1(probs)
  np.testing.assert_array_equal(routing.expert_index, [[[1], [0]]])
  np.testing.assert_array_equal(routing.gate, np.float32([[[0.5], [0.6]]]))
  assert routing.expert_index.dtype == jnp.int32 and routing.gate.dtype == jnp.float32


def test_a_tie_goes_to_the_first_expert():
  assert top1(jnp.full((1, 1, 4), 0.25)).expert_index.item() == 0


def test_jitter_multiplies_by_a_uniform_draw_around_one():
  x = jnp.full((200, 500), 3.0, jnp.bfloat16)
  noisy = jitter(x, 0.01, jax.random.key(0))
  assert noisy.dtype == jnp.float32
  factor = np.asarray(noisy) / 3.0
  assert factor.min() >= 0.99 - 1e-6 and factor.max() <= 1.01 + 1e-6
  assert factor.mean() == pytest.approx(1.0, abs=1e-4)
  assert factor.std() == pytest.approx(0.02 / np.sqrt(12), rel=0.01)


@pytest.mark.parametrize(("noise", "key"), [(0.01, None), (0.0, jax.random.key(0))])
def test_there_is_no_jitter_without_key_or_noise(noise, key):
  x = jnp.linspace(-1, 1, 7)
  np.testing.assert_array_equal(jitter(x, noise, key), x)


def test_uniform_routing_has_load_balance_loss_one():
  probs = jnp.full((2, 8, 4), 0.25)
  index = jnp.tile(jnp.arange(4), (2, 2))
  np.testing.assert_allclose(load_balance_loss(probs, index, all_real(2, 8)), [1, 1])


def test_collapsed_routing_has_load_balance_loss_of_the_number_of_experts():
  probs = jnp.zeros((1, 8, 4)).at[..., 2].set(1.0)
  index = jnp.full((1, 8), 2)
  np.testing.assert_allclose(load_balance_loss(probs, index, all_real(1, 8)), [4])


def test_load_balance_loss_can_be_below_one():
  probs = jnp.asarray([[[0.51, 0.49], [0.51, 0.49], [0.0, 1.0]]])
  loss = load_balance_loss(probs, jnp.asarray([[0, 0, 1]]), all_real(1, 3))
  # 2 * (2/3 * 1.02/3 + 1/3 * 1.98/3)
  np.testing.assert_allclose(loss, [0.8933333], rtol=1e-6)


@pytest.fixture(scope="module")
def routed():
  """Random logits of two groups, the second half of the last group padded."""
  logits = jax.random.normal(jax.random.key(0), (2, 12, 4)) * 2
  mask = all_real(2, 12).at[1, 6:].set(False)
  return logits, mask


def test_load_balance_loss_is_the_papers_formula_over_real_tokens(routed):
  logits, mask = routed
  probs = jax.nn.softmax(logits)
  index = probs.argmax(axis=-1)
  got = load_balance_loss(probs, index, mask)
  for group in range(2):
    p = np.asarray(probs[group])[np.asarray(mask[group])]
    f = np.bincount(p.argmax(axis=-1), minlength=4) / len(p)
    np.testing.assert_allclose(got[group], 4 * (f * p.mean(axis=0)).sum(), rtol=1e-6)


def test_load_balance_gradient_flows_through_probabilities_of_real_tokens_alone(routed):
  logits, mask = routed
  probs = jax.nn.softmax(logits)
  index = probs.argmax(axis=-1)
  gradient = jax.grad(lambda p: load_balance_loss(p, index, mask).sum())(probs)
  for group in range(2):
    real = np.asarray(mask[group])
    f = np.bincount(np.asarray(index[group])[real], minlength=4) / real.sum()
    expected = real[:, None] * 4 * f / real.sum()
    np.testing.assert_allclose(gradient[group], expected, rtol=1e-6)


def test_router_z_loss_is_the_mean_squared_log_partition_of_real_tokens(routed):
  logits, mask = routed
  got = router_z_loss(logits, mask)
  for group in range(2):
    log_z = np.log(np.exp(np.asarray(logits[group], np.float64)).sum(axis=-1))
    np.testing.assert_allclose(got[group], (log_z[np.asarray(mask[group])] ** 2).mean(), rtol=1e-6)


def test_a_group_of_padding_alone_has_no_loss_and_finite_gradients(routed):
  logits, _ = routed
  nothing = jnp.zeros((2, 12), bool)

  def losses(logits):
    probs = jax.nn.softmax(logits)
    balance = load_balance_loss(probs, probs.argmax(axis=-1), nothing)
    return (balance + router_z_loss(logits, nothing)).sum()

  loss, gradient = jax.value_and_grad(losses)(logits)
  assert loss == 0
  np.testing.assert_array_equal(gradient, np.zeros_like(gradient))


def test_load_counts_real_tokens_and_losses_average_while_counts_add_over_groups():
  index = jnp.asarray([[[0], [0], [2]], [[1], [1], [1]]])
  load = expert_load(index, jnp.asarray([[True, True, True], [True, False, True]]), 3)
  np.testing.assert_array_equal(load, [[2, 0, 1], [0, 2, 0]])
  report = over_groups(
    RouterReport(jnp.asarray([1.0, 3.0]), jnp.asarray([2.0, 4.0]), load, jnp.asarray([1.0, 0.0]))
  )
  assert (report.load_balance_loss, report.router_z_loss, report.num_dropped) == (2, 3, 1)
  np.testing.assert_array_equal(report.expert_load, [2, 2, 1])
