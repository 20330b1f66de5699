# SPDX-License-Identifier: Apache-2.0
"""Cross-entropy of a student's [tokens, V] logits with a teacher's probabilities (Hinton et al., 2015).

For a temperature tau, p = softmax(teacher's logits / tau) and q = softmax(student's logits / tau): the
loss of a token is -sum p log q, its gradient (q - p) / tau. p is over the first `num_ids` ids, those of
the vocabulary, whatever the teacher's table is padded to; q is over the student's whole table, as in the
loss of the targets: p is 0 on its padding, so that this learns to be unlikely.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from switch_t5.types import Array

_LEAST_MASS = 1e-7  # about the spacing of float32 below 1


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def soft_cross_entropy(
  logits: Array, teacher_logits: Array, temperature: float, num_ids: int
) -> Array:
  """Returns the cross-entropy with all of a teacher's probabilities, float32 [tokens].

  The teacher gets no gradient.

  Args:
    logits: float32 [tokens, V] of the student.
    teacher_logits: float32 [tokens, V'].
    temperature: tau, above 0.
    num_ids: of the teacher's softmax, at most V and V'.
  """
  return _forward(logits, teacher_logits, temperature, num_ids)[0]


def _forward(logits, teacher_logits, temperature, num_ids):
  probs = _as_wide(_probabilities(teacher_logits, temperature, num_ids), logits.shape[-1])
  log_z = jax.nn.logsumexp(logits / temperature, axis=-1)
  loss = log_z - (probs * logits).sum(axis=-1) / temperature
  return loss, (logits, probs, log_z)


def _backward(temperature, num_ids, residuals, loss_bar):
  logits, probs, log_z = residuals
  student = jnp.exp(logits / temperature - log_z[:, None])
  return (student - probs) * (loss_bar / temperature)[:, None], None


soft_cross_entropy.defvjp(_forward, _backward)


def top_k_cross_entropy(
  logits: Array, teacher_ids: Array, teacher_probs: Array, temperature: float, num_ids: int
) -> Array:
  """Returns the cross-entropy with a teacher's k greatest probabilities, float32 [tokens].

  What they leave of 1 is the mass of all other ids, which the student's mass of these is held against,
  as one more class. With k = num_ids it is `soft_cross_entropy`.

  Args:
    logits: float32 [tokens, V] of the student.
    teacher_ids: int32 [tokens, k], different ids of each token, in [0, num_ids).
    teacher_probs: float32 [tokens, k], at the same temperature.
    temperature: tau, above 0.
    num_ids: of the teacher's softmax, at most V.
  """
  scaled = logits / temperature
  log_z = jax.nn.logsumexp(scaled, axis=-1)
  log_probs = jnp.take_along_axis(scaled, teacher_ids, axis=-1) - log_z[:, None]
  loss = -(teacher_probs * log_probs).sum(axis=-1)
  if teacher_ids.shape[-1] == num_ids:
    return loss  # there are no others
  tail = jnp.maximum(1.0 - teacher_probs.sum(axis=-1), 0.0)
  others = jnp.maximum(1.0 - jnp.exp(log_probs).sum(axis=-1), _LEAST_MASS)
  return loss - tail * jnp.log(others)


def top_k_probabilities(
  teacher_logits: Array, k: int, temperature: float, num_ids: int
) -> tuple[Array, Array]:
  """Returns what `top_k_cross_entropy` takes: ids, int32 [tokens, k], and float32 probabilities.

  Args:
    teacher_logits: float32 [tokens, V'].
    k: at most num_ids.
    temperature: tau, above 0.
    num_ids: of the softmax, at most V'.
  """
  greatest, ids = jax.lax.top_k(_probabilities(teacher_logits, temperature, num_ids), k)
  return ids.astype(jnp.int32), greatest


def _probabilities(logits: Array, temperature: float, num_ids: int) -> Array:
  """Returns the softmax of the logits over tau; padding is not in it."""
  if num_ids < logits.shape[-1]:
    ids = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
    logits = jnp.where(ids < num_ids, logits, -jnp.inf)
  return jax.nn.softmax(logits / temperature, axis=-1)


def _as_wide(probs: Array, width: int) -> Array:
  """Returns probabilities over `width` ids; those that come or go are of padding, and 0."""
  more = width - probs.shape[-1]
  return jnp.pad(probs, ((0, 0), (0, more))) if more > 0 else probs[:, :width]
