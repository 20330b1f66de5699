# SPDX-License-Identifier: Apache-2.0
"""Cross-entropy with z-loss of [tokens, V] logits, with the gradient written in one pass."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp

from switch_t5.types import Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def cross_entropy_with_z_loss(
  logits: Array, targets: Array, z_loss: float, label_smoothing: float = 0.0
) -> tuple[Array, Array]:
  """Returns the cross-entropy with the targets and the z-loss, float32 [tokens] each.

  With Z = sum exp(logits), z = z_loss * (log Z)^2, which keeps log Z near 0 (T5X and Mesh TensorFlow
  train with z_loss 1e-4). The cross-entropy is the negative log-likelihood log Z - logits[target];
  with label smoothing s the target's probability is 1 - s, that of each other class s / (V - 1), and
  their entropy is subtracted, as T5X does, so that the least value is 0. The backward pass keeps
  log Z alone beside the arguments. Logits that are sharded over the vocabulary stay where they are:
  only [tokens] crosses devices.

  Args:
    logits: float32 [tokens, V]. Where V is padded, the padding is a class as any other.
    targets: int32 [tokens], in [0, V).
    z_loss: factor of the z-loss.
    label_smoothing: s, in [0, 1).
  """
  return _forward(logits, targets, z_loss, label_smoothing)[0]


def target_logits(logits: Array, targets: Array) -> Array:
  """Returns logits[i, targets[i]], [tokens].

  A gather: on CPU, a sum over compared positions costs as much as the rest of the loss's forward
  pass. XLA splits it over a sharded vocabulary into local lookups and one sum of [tokens].
  """
  return jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]


def _forward(logits, targets, z_loss, label_smoothing):
  log_z = jax.nn.logsumexp(logits, axis=-1)
  expected = target_logits(logits, targets)
  if label_smoothing:
    other = label_smoothing / (logits.shape[-1] - 1)
    entropy = -(1.0 - label_smoothing) * math.log1p(-label_smoothing)
    entropy -= label_smoothing * math.log(other)
    expected = (1.0 - label_smoothing - other) * expected + other * logits.sum(axis=-1) + entropy
  return (log_z - expected, z_loss * log_z**2), (logits, targets, log_z)


def _backward(z_loss, label_smoothing, residuals, cotangents):
  logits, targets, log_z = residuals
  loss_bar, z_bar = cotangents
  # d loss / d logits = p - target probabilities; d z / d logits = 2 z_loss log Z p.
  probs_bar = loss_bar + 2.0 * z_loss * log_z * z_bar
  gradient = jnp.exp(logits - log_z[:, None]) * probs_bar[:, None]
  is_target = jax.lax.broadcasted_iota(targets.dtype, logits.shape, 1) == targets[:, None]
  other = label_smoothing / (logits.shape[-1] - 1)
  target_bar = jnp.where(is_target, (1.0 - label_smoothing) * loss_bar[:, None], 0.0)
  if label_smoothing:
    target_bar = jnp.where(is_target, target_bar, other * loss_bar[:, None])
  return gradient - target_bar, None


cross_entropy_with_z_loss.defvjp(_forward, _backward)
