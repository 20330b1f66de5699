# SPDX-License-Identifier: Apache-2.0
"""Logical axis names on parameters and activations."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P

from switch_t5.sharding.mesh import DATA, EXPERT
from switch_t5.sharding.rules import partition_spec
from switch_t5.types import Array, AxisNames, DType


def param(value: Array, axes: AxisNames) -> nnx.Param:
  """Makes a parameter that carries a logical axis name for each of its dimensions."""
  if len(axes) != value.ndim:
    raise ValueError(f"{axes} names {len(axes)} axes of an array of shape {value.shape}")
  return nnx.Param(value, axes=axes)


def prepend_axis(module: nnx.Module, name: str) -> None:
  """Names a new leading axis of every parameter of `module` (after nnx.vmap stacked them)."""
  for _, node in nnx.iter_graph(module):
    if isinstance(node, nnx.Param):
      node.set_metadata(axes=(name, *node.get_metadata()["axes"]))


def gathered(parameter: nnx.Param, dtype: DType) -> Array:
  """Returns a parameter's value as layers use it: in `dtype`, laid out as activations are.

  A run may store parameters split further than layers use them (`rules.PARAMETER_RULES`). The cast
  comes first, so that what is gathered is in the activations' type.
  """
  value = parameter[...].astype(dtype)
  if not jax.sharding.get_abstract_mesh().empty:
    # Leaves open how the cast is laid out: XLA would lay it out as the constraint that follows.
    value = jax.lax.with_sharding_constraint(value, P(*(P.UNCONSTRAINED,) * value.ndim))
  axes = parameter.get_metadata()["axes"]
  return constrain(value, *axes[len(axes) - value.ndim :])  # a scan has taken the axis `layers` off


def batch_shards() -> int:
  """Returns over how many devices the batch is split; 1 outside a mesh."""
  sizes = jax.sharding.get_abstract_mesh().shape
  return math.prod(sizes.get(axis, 1) for axis in (DATA, EXPERT))


def copied(x: Array, copies: int, *axes: str | None) -> Array:
  """Returns x [...] as [copies, ...]; of more than one each is on a shard of the batch.

  A device has its copy's gradient to itself, summed over all uses, until they are summed over devices
  once.

  Args:
    x: that all shards use.
    copies: 1 or `batch_shards()`.
    *axes: a logical axis name (or None) for each dimension of x.
  """
  found = jnp.broadcast_to(x, (copies, *x.shape))
  return constrain(found, "batch", *axes) if copies > 1 else found


def constrain(x: Array, *axes: str | None) -> Array:
  """Shards an activation by its logical axes; does nothing outside a mesh.

  Args:
    x: any array.
    *axes: a logical axis name (or None) for each dimension of x.
  """
  if len(axes) != x.ndim:
    raise ValueError(f"{axes} names {len(axes)} axes of an array of shape {x.shape}")
  if jax.sharding.get_abstract_mesh().empty:
    return x
  return jax.lax.with_sharding_constraint(x, partition_spec(axes))
