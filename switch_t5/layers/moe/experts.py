# SPDX-License-Identifier: Apache-2.0
"""The experts: E independent T5 feed-forward layers, stacked; or projections of attention."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P

from switch_t5.layers.activations import activate, projection_names
from switch_t5.layers.dense import kept_apart
from switch_t5.layers.initializers import truncated_normal
from switch_t5.sharding.annotate import gathered, param
from switch_t5.sharding.mesh import MODEL
from switch_t5.types import Array, DType, PRNGKey

Matmul = Callable[[Array, Array], Array]
Kernels = tuple[Array, ...]


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
    dropout_rate: `expert_dropout_rate`, of the hidden activation.
    scale: of the initialisers.
    rngs: stream `params`.
  """

  outputs_are_partial = True  # each device along model has f/m of the columns that are summed

  def __init__(
    self,
    num_experts: int,
    d_model: int,
    d_ff: int,
    *,
    activations: tuple[str, ...] = ("relu",),
    dropout_rate: float = 0.0,
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
    self.activations, self.dropout_rate, self.d_ff = activations, dropout_rate, d_ff

  def kernels(self, dtype: DType) -> Kernels:
    """Returns the input kernels, then wo, in `dtype`."""
    wi = tuple(gathered(getattr(self, name).kernel, dtype) for name in self.inputs)
    return (*wi, gathered(self.wo.kernel, dtype))

  def specs(self, expert_axis: str | tuple[str, ...]) -> tuple[P, ...]:
    """Returns how `kernels` are split over the mesh."""
    return (P(expert_axis, None, MODEL),) * len(self.inputs) + (P(expert_axis, MODEL, None),)

  def __call__(
    self, inputs: Array, kernels: Kernels, matmul: Matmul, dropout: Callable[..., Array]
  ) -> Array:
    """Maps [..., d] to the same shape, partial sums on each device along model.

    Args:
      inputs: rows of this device's experts.
      kernels: this device's part, [E/e, d, f/m] and [E/e, f/m, d].
      matmul: multiplies each row by its expert's kernel.
      dropout: of the hidden activation [..., f/m].
    """
    *wi, wo = kernels
    hidden = activate([matmul(inputs, kernel) for kernel in wi], self.activations)
    first_column = jax.lax.axis_index(MODEL) * hidden.shape[-1]
    return matmul(dropout(hidden, first_column=first_column, d_ff=self.d_ff), wo)

  def outputs(self, y: Array) -> Array:
    """Returns what a layer of these experts returns: y [T, d/m] itself."""
    return y


class AttentionExperts(nnx.Module):
  """Projections of self-attention: one for queries, one that keys and values share (App. A, Fig. 10).

  Mesh-TensorFlow's experts of attention share keys and values too. Each expert is linear.

  Args:
    num_experts, d_model: E, d.
    num_heads, d_kv: H, k; kernels are fused over heads, [E, d, H * k].
    scale: of the initialisers; the query's is divided by k, as in `Attention`.
    rngs: stream `params`.
  """

  outputs_are_partial = False  # each device along model makes whole columns: its heads'
  dropout_rate = 0.0  # there is no hidden activation

  def __init__(
    self,
    num_experts: int,
    d_model: int,
    num_heads: int,
    d_kv: int,
    *,
    scale: float,
    rngs: nnx.Rngs,
  ):
    shape, axes = (num_experts, d_model, num_heads * d_kv), ("expert", "embed", "joined_kv")
    self.query = StackedKernel(shape, axes, scale=scale / d_kv, rngs=rngs)
    self.key_value = StackedKernel(shape, axes, scale=scale, rngs=rngs)

  def kernels(self, dtype: DType) -> Kernels:
    """Returns the kernels of query and of key and value, in `dtype`."""
    return gathered(self.query.kernel, dtype), gathered(self.key_value.kernel, dtype)

  def specs(self, expert_axis: str | tuple[str, ...]) -> tuple[P, ...]:
    """Returns how `kernels` are split over the mesh."""
    return (P(expert_axis, None, MODEL),) * 2

  def __call__(
    self, inputs: Array, kernels: Kernels, matmul: Matmul, dropout: Callable[..., Array]
  ) -> Array:
    """Maps [..., d] to this device's columns of the query, then those of key and value."""
    return jnp.concatenate([matmul(inputs, kernel) for kernel in kernels], axis=-1)

  def outputs(self, y: Array) -> tuple[Array, Array]:
    """Returns query, and key and value, each [T, H * k / m]."""
    query, key_value = jnp.split(y, 2, axis=-1)
    return query, key_value


def expert_dropout(
  hidden: Array,
  *,
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
  return _dropped(hidden, mask.reshape(num_experts, rows, columns), rate)


def row_dropout(
  hidden: Array,
  *,
  rate: float,
  key: PRNGKey | None,
  row_ids: Array,
  first_column: Array | int,
  d_ff: int,
) -> Array:
  """The same where rows are no places of a group: a row's mask is drawn for its choice.

  Args:
    hidden: [rows, columns here].
    rate, key, first_column, d_ff: as in `expert_dropout`.
    row_ids: int32 [rows], global numbers of the choices.
  """
  if key is None or rate == 0.0:
    return hidden

  def keep(row_id):
    kept = jax.random.bernoulli(jax.random.fold_in(key, row_id), 1.0 - rate, (d_ff,))
    return jax.lax.dynamic_slice_in_dim(kept, first_column, hidden.shape[-1])

  return _dropped(hidden, jax.vmap(keep)(row_ids), rate)


def _dropped(hidden: Array, mask: Array, rate: float) -> Array:
  scaled = hidden / jnp.asarray(1.0 - rate, hidden.dtype)
  return jnp.where(mask, scaled, jnp.zeros((), hidden.dtype))
