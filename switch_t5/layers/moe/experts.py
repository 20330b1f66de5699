# SPDX-License-Identifier: Apache-2.0
"""The experts: E independent T5 feed-forward layers, stacked."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from switch_t5.layers.activations import projection_names
from switch_t5.layers.dense import kept_apart
from switch_t5.layers.initializers import truncated_normal
from switch_t5.sharding.annotate import gathered, param
from switch_t5.types import Array, DType, PRNGKey


@jax.custom_vjp
def batched_matmul(x: Array, kernel: Array) -> Array:
  """Returns x[e] @ kernel[e] for x [E, rows, in], kernel [E, in, out].

  Its backward is as that of `dense.matmul`.
  """
  return jnp.einsum("enf,efg->eng", x, kernel)


def _batched_matmul_forward(x, kernel):
  return batched_matmul(x, kernel), (x, kernel)


def _batched_matmul_backward(residuals, g):
  x, kernel = residuals
  dx = jnp.einsum("eng,efg->enf", g, kernel)
  transposed = kept_apart(x.swapaxes(1, 2))
  return dx, jnp.einsum("efn,eng->efg", transposed, g)


batched_matmul.defvjp(_batched_matmul_forward, _batched_matmul_backward)


class StackedKernel(nnx.Module):
  """One kernel per expert, each with its own fan-in."""

  def __init__(self, shape: tuple[int, int, int], axes: tuple, *, scale: float, rngs: nnx.Rngs):
    self.kernel = param(truncated_normal(rngs.params(), shape, scale, fan_in=shape[1]), axes)


class Experts(nnx.Module):
  """The kernels wi (wi_0 and wi_1 if gated) [E, d, f] and wo [E, f, d] of all experts, float32.

  Args:
    num_experts, d_model, d_ff: E, d, f.
    activations: one for each input projection.
    scale: of the initialisers.
    rngs: stream `params`.
  """

  def __init__(
    self,
    num_experts: int,
    d_model: int,
    d_ff: int,
    *,
    activations: tuple[str, ...] = ("relu",),
    scale: float,
    rngs: nnx.Rngs,
  ):
    self.inputs = projection_names(activations)
    for name in self.inputs:
      shape, axes = (num_experts, d_model, d_ff), ("expert", "embed", "mlp")
      setattr(self, name, StackedKernel(shape, axes, scale=scale, rngs=rngs))
    self.wo = StackedKernel(
      (num_experts, d_ff, d_model), ("expert", "mlp", "embed"), scale=scale, rngs=rngs
    )

  def kernels(self, dtype: DType) -> tuple[tuple[Array, ...], Array]:
    """Returns all input kernels, and wo, in `dtype`."""
    wi = tuple(gathered(getattr(self, name).kernel, dtype) for name in self.inputs)
    return wi, gathered(self.wo.kernel, dtype)


def expert_dropout(
  hidden: Array,
  rate: float,
  key: PRNGKey | None,
  expert_ids: Array,
  group_ids: Array,
  first_column: Array | int,
  d_ff: int,
) -> Array:
  """Dropout of the experts' hidden activation, the same on any mesh (paper section 2.4, Table 4).

  The mask of an expert's places for one group is drawn from a key folded with both global ids,
  over all of d_ff; this device's columns are cut out of it.

  Args:
    hidden: [experts here, groups * C, columns here].
    rate: `expert_dropout_rate`.
    key: None for no dropout.
    expert_ids: int32 [experts here], global.
    group_ids: int32 [groups], global.
    first_column: this device's first column of d_ff.
    d_ff: f.
  """
  if key is None or rate == 0.0:
    return hidden
  num_experts, rows, columns = hidden.shape

  def keep(expert_id, group_id):
    folded = jax.random.fold_in(jax.random.fold_in(key, expert_id), group_id)
    kept = jax.random.bernoulli(folded, 1.0 - rate, (rows // group_ids.shape[0], d_ff))
    return jax.lax.dynamic_slice_in_dim(kept, first_column, columns, axis=1)

  over_groups = jax.vmap(keep, in_axes=(None, 0))
  mask = jax.vmap(over_groups, in_axes=(0, None))(expert_ids, group_ids)
  mask = mask.reshape(num_experts, rows, columns)
  scaled = hidden / jnp.asarray(1.0 - rate, hidden.dtype)
  return jnp.where(mask, scaled, jnp.zeros((), hidden.dtype))
