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
  the arguments. Logits that are sharded over the vocabulary stay where they are: only [tokens]
  crosses devices.

  Args:
    logits: float32 [tokens, V]. Where V is padded, the padding is a class as any other.
    targets: int32 [tokens], in [0, V).
    z_loss: factor of the z-loss.
  """
  return _forward(logits, targets, z_loss)[0]


def target_logits(logits: Array, targets: Array) -> Array:
  """Returns logits[i, targets[i]], [tokens].

  A gather: on CPU, a sum over compared positions costs as much as the rest of the loss's forward
  pass. XLA splits it over a sharded vocabulary into local lookups and one sum of [tokens].
  """
  return jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]


def _forward(logits, targets, z_loss):
  log_z = jax.nn.logsumexp(logits, axis=-1)
  nll = log_z - target_logits(logits, targets)
  return (nll, z_loss * log_z**2), (logits, targets, log_z)


def _backward(z_loss, residuals, cotangents):
  logits, targets, log_z = residuals
  nll_bar, z_bar = cotangents
  # d nll / d logits = p - onehot; d z / d logits = 2 z_loss log Z p.
  probs_bar = nll_bar + 2.0 * z_loss * log_z * z_bar
  gradient = jnp.exp(logits - log_z[:, None]) * probs_bar[:, None]
  is_target = jax.lax.broadcasted_iota(targets.dtype, logits.shape, 1) == targets[:, None]
  return gradient - jnp.where(is_target, nll_bar[:, None], 0.0), None


cross_entropy_with_z_loss.defvjp(_forward, _backward)
