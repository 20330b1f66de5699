# SPDX-License-Identifier: Apache-2.0
"""A teacher's cross-entropy: value and gradient by the formula, top-k and tail, padded tables."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from switch_t5.losses.cross_entropy import cross_entropy_with_z_loss
from switch_t5.losses.objective import LossConfig, SoftLosses, total_loss
from switch_t5.losses.soft_cross_entropy import (
  soft_cross_entropy,
  top_k_cross_entropy,
  top_k_probabilities,
)

TOKENS, V = 7, 24
RNG = np.random.default_rng(0)
STUDENT, TEACHER = (RNG.normal(0.0, 3.0, (TOKENS, V)).astype(np.float32) for _ in range(2))


def softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
  """The formula in float64."""
  scaled = np.exp((logits.astype(np.float64) - logits.max(-1, keepdims=True)) / temperature)
  return scaled / scaled.sum(-1, keepdims=True)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_value_and_gradient_are_those_of_the_formula(temperature):
  p, q = softmax(TEACHER, temperature), softmax(STUDENT, temperature)
  weights = np.arange(1.0, TOKENS + 1, dtype=np.float32)

  def weighted(student, teacher):
    return (weights * soft_cross_entropy(student, teacher, temperature, V)).sum()

  losses = soft_cross_entropy(STUDENT, TEACHER, temperature, V)
  np.testing.assert_allclose(losses, -(p * np.log(q)).sum(-1), rtol=1e-5)
  of_student, of_teacher = jax.grad(weighted, argnums=(0, 1))(jnp.asarray(STUDENT), TEACHER)
  np.testing.assert_allclose(
    of_student, weights[:, None] * (q - p) / temperature, rtol=1e-5, atol=2e-6
  )
  assert not np.any(of_teacher)


def test_the_gradient_of_the_whole_loss_is_the_mix_of_the_published_formula():
  s, tau, z_loss = 0.25, 2.0, 1e-2
  targets = np.arange(TOKENS, dtype=np.int32)
  weights = np.array([1, 1, 0, 1, 1, 0, 1], np.float32)
  config = LossConfig(z_loss=z_loss)

  def loss(student):
    soft = SoftLosses(soft_cross_entropy(student, TEACHER, tau, V), s, tau)
    total, sums = total_loss(
      config,
      logits=student,
      targets=targets,
      weights=weights,
      loss_weights=weights,
      normalizer=jnp.float32(5.0),
      load_balance_losses=jnp.zeros(0),
      router_z_losses=jnp.zeros(0),
      microbatch_fraction=1.0,
      soft=soft,
    )
    return total, sums

  (total, sums), gradient = jax.value_and_grad(loss, has_aux=True)(jnp.asarray(STUDENT))
  hard, z = cross_entropy_with_z_loss(STUDENT, targets, z_loss)
  p, q = softmax(TEACHER, tau), softmax(STUDENT, tau)
  soft = -(p * np.log(q)).sum(-1)
  mixed = (1 - s) * np.asarray(hard) + s * tau**2 * soft + np.asarray(z)
  np.testing.assert_allclose(total, (weights * mixed).sum() / 5.0, rtol=1e-5)
  np.testing.assert_allclose(sums.soft_cross_entropy, (weights * soft).sum(), rtol=1e-5)
  probs, log_z = softmax(STUDENT, 1.0), np.log(np.exp(STUDENT.astype(np.float64)).sum(-1))
  want = (1 - s) * (probs - np.eye(V)[targets]) + s * tau**2 * (q - p) / tau
  want += 2 * z_loss * log_z[:, None] * probs
  np.testing.assert_allclose(gradient, weights[:, None] * want / 5.0, atol=2e-6)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_all_ids_of_a_cache_give_the_live_loss_and_gradient(temperature):
  ids, probs = top_k_probabilities(TEACHER, V, temperature, V)

  def cached(student):
    return top_k_cross_entropy(student, ids, probs, temperature, V).sum()

  def live(student):
    return soft_cross_entropy(student, TEACHER, temperature, V).sum()

  for got, want in zip(
    *(jax.value_and_grad(f)(jnp.asarray(STUDENT)) for f in (cached, live)), strict=True
  ):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_what_the_k_ids_leave_is_one_more_class():
  k, temperature = 4, 1.5
  ids, probs = top_k_probabilities(TEACHER, k, temperature, V)
  p, q = softmax(TEACHER, temperature), softmax(STUDENT, temperature)
  order = np.argsort(-p, axis=-1)[:, :k]
  np.testing.assert_array_equal(ids, order)
  first_p, first_q = (np.take_along_axis(x, order, -1) for x in (p, q))
  want = -(first_p * np.log(first_q)).sum(-1)
  want -= (1 - first_p.sum(-1)) * np.log(1 - first_q.sum(-1))
  np.testing.assert_allclose(
    top_k_cross_entropy(STUDENT, ids, probs, temperature, V), want, rtol=1e-5
  )


def test_a_tail_that_the_student_gives_no_mass_is_finite_with_its_gradient():
  student = np.full((1, V), -200.0, np.float32)
  student[0, :2] = 100.0
  ids, probs = np.array([[0, 1]], np.int32), np.array([[0.5, 0.25]], np.float32)
  loss, gradient = jax.value_and_grad(
    lambda logits: top_k_cross_entropy(logits, ids, probs, 1.0, V).sum()
  )(jnp.asarray(student))
  assert np.isfinite(loss) and np.isfinite(gradient).all()


@pytest.mark.parametrize("student_padding, teacher_padding", [(0, 8), (8, 0), (4, 8)])
def test_the_teachers_padding_counts_for_nothing_and_the_students_gets_no_mass(
  student_padding, teacher_padding
):
  rng = np.random.default_rng(1)
  pad = lambda x, n: np.concatenate([x, rng.normal(2, 2, (TOKENS, n))], -1).astype(np.float32)  # noqa: E731
  student, teacher = pad(STUDENT, student_padding), pad(TEACHER, teacher_padding)
  p = np.pad(softmax(TEACHER, 2.0), ((0, 0), (0, student_padding)))
  q = softmax(student, 2.0)
  losses, vjp = jax.vjp(lambda x: soft_cross_entropy(x, teacher, 2.0, V), jnp.asarray(student))
  np.testing.assert_allclose(losses, -(p * np.log(q)).sum(-1), rtol=1e-5)
  (gradient,) = vjp(jnp.ones(TOKENS))
  np.testing.assert_allclose(gradient, (q - p) / 2.0, atol=2e-6)
  ids, probs = top_k_probabilities(teacher, 5, 2.0, V)
  want_ids, want_probs = top_k_probabilities(TEACHER, 5, 2.0, V)
  np.testing.assert_array_equal(ids, want_ids)
  np.testing.assert_allclose(probs, want_probs, rtol=1e-5)
  cached = top_k_cross_entropy(student, *top_k_probabilities(teacher, V, 2.0, V), 2.0, V)
  np.testing.assert_allclose(cached, losses, rtol=1e-5)
