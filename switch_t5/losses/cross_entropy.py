# SPDX-License-Identifier: Apache-2.0
"""Cross-entropy with z-loss of [tokens, V] logits, with the gradient written in one pass."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from switch_t5.types import Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def cross_entropy_with_z_loss(logits: Array, targets: Array, z_loss: float) -> tuple[Array, Array]:
  """Returns the negative log-likelihood of the targets and the z-loss, float32 [tokens] each.

  With Z = sum exp(logits), nll = log Z - logits[target] and z = z_loss * (log Z)^2, which keeps log Z
  near 0 (T5X and Mesh TensorFlow train with z_loss 1e-4). The backward pass keeps log Z alone beside
  the arguments. Nothing is indexed by the target: comparing it with the positions of the
  vocabulary leaves logits that are sharded over the vocabulary where they are.

  Args:
    logits: float32 [tokens, V]. Where V is padded, the padding is a class as any other.
    targets: int32 [tokens], in [0, V).
    z_loss: factor of the z-loss.
  """
  return _forward(logits, targets, z_loss)[0]


def _forward(logits, targets, z_loss):
  log_z = jax.nn.logsumexp(logits, axis=-1)
  target_logits = jnp.where(_is_target(logits, targets), logits, 0.0).sum(axis=-1)
  return (log_z - target_logits, z_loss * log_z**2), (logits, targets, log_z)


def _backward(z_loss, residuals, cotangents):
  logits, targets, log_z = residuals
  nll_bar, z_bar = cotangents
  # d nll / d logits = p - onehot; d z / d logits = 2 z_loss log Z p.
  probs_bar = nll_bar + 2.0 * z_loss * log_z * z_bar
  gradient = jnp.exp(logits - log_z[:, None]) * probs_bar[:, None]
  return gradient - jnp.where(_is_target(logits, targets), nll_bar[:, None], 0.0), None


def _is_target(logits, targets):
  """Returns bool [tokens, V], fused into what reads it."""
  return jax.lax.broadcasted_iota(targets.dtype, logits.shape, 1) == targets[:, None]


cross_entropy_with_z_loss.defvjp(_forward, _backward)
