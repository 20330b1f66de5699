# SPDX-License-Identifier: Apache-2.0
"""A linear projection without bias."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from switch_t5.layers.initializers import truncated_normal
from switch_t5.sharding.annotate import gathered, param
from switch_t5.types import Array, DType


@jax.custom_vjp
def matmul(x: Array, kernel: Array) -> Array:
  """Returns x @ kernel for x [tokens, in], kernel [in, out]; see `kept_apart` on its backward."""
  return x @ kernel


def _matmul_forward(x, kernel):
  return x @ kernel, (x, kernel)


def _matmul_backward(residuals, g):
  x, kernel = residuals
  return g @ kernel.T, kept_apart(x.T) @ g


matmul.defvjp(_matmul_forward, _matmul_backward)


def kept_apart(transposed: Array) -> Array:
  """Returns its argument, a transpose; on CPU XLA does not fold it into the matmul that reads it.

  Folded, it makes a contraction over tokens that XLA CPU runs several percent slower than a plain
  matmul of the transposed array. On TPU a barrier would only add bytes (2% of the demo's step).
  """
  return jax.lax.platform_dependent(
    transposed, cpu=jax.lax.optimization_barrier, default=lambda transposed: transposed
  )


class Dense(nnx.Module):
  """y = x @ kernel.

  Args:
    in_features, out_features: the kernel's shape.
    axes: logical names of the kernel's two axes.
    scale: of the initialiser, see `truncated_normal`.
    dtype: of the computation; the kernel is kept in float32.
    rngs: stream `params`.
  """

  def __init__(
    self,
    in_features: int,
    out_features: int,
    *,
    axes: tuple[str, str],
    scale: float,
    dtype: DType,
    rngs: nnx.Rngs,
  ):
    kernel = truncated_normal(rngs.params(), (in_features, out_features), scale, in_features)
    self.kernel = param(kernel, axes)
    self.dtype = dtype

  def __call__(self, x: Array) -> Array:
    """Maps [tokens, in] to [tokens, out]."""
    return matmul(x.astype(self.dtype), gathered(self.kernel, self.dtype))


@jax.custom_vjp
def stable_logits(x: Array, kernel: Array) -> Array:
  """Returns float32 x @ kernel for x [tokens, d] and kernel [d, out] of the same dtype.

  The backward pass is in that dtype: with the kernel split over model, x's gradient is a sum over
  devices, and no float32 array of [tokens, d] is to cross them.
  """
  return jnp.matmul(x, kernel, preferred_element_type=jnp.float32)


def _stable_logits_forward(x, kernel):
  return stable_logits(x, kernel), (x, kernel)


def _stable_logits_backward(residuals, g):
  gradients = _matmul_backward(residuals, g.astype(residuals[0].dtype))
  # Both at once: XLA may put off the kernel's to the step's end, and g, [tokens, V], would wait for it.
  return jax.lax.optimization_barrier(gradients)


stable_logits.defvjp(_stable_logits_forward, _stable_logits_backward)
