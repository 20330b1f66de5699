# SPDX-License-Identifier: Apache-2.0
"""From logical axes to mesh axes: one table for parameters, optimizer state and activations."""

from __future__ import annotations

import math

from jax.sharding import Mesh, NamedSharding, PartitionSpec

from switch_t5.errors import MeshError, suggest
from switch_t5.sharding.mesh import DATA, EXPERT, MODEL
from switch_t5.types import AxisNames

RULES: dict[str, str | tuple[str, ...] | None] = {
  "batch": (DATA, EXPERT),
  "expert": EXPERT,
  "heads": MODEL,
  "joined_kv": MODEL,  # heads * d_kv, fused head-major: splitting it splits whole heads
  "mlp": MODEL,
  "vocab": MODEL,
  "embed": None,
  "kv": None,
  "length": None,
  "layers": None,
  "relpos_buckets": None,
  "router_experts": None,  # the router's output: every device routes its own tokens to all experts
}


def partition_spec(axes: AxisNames) -> PartitionSpec:
  """Returns the mesh axes of an array whose dimensions have these logical names (or None)."""
  return PartitionSpec(*(None if name is None else _rule(name) for name in axes))


def _rule(name: str) -> str | tuple[str, ...] | None:
  if name not in RULES:
    raise KeyError(f"No logical axis is named {name!r}. {suggest(name, RULES)}")
  return RULES[name]


def named_sharding(mesh: Mesh, axes: AxisNames) -> NamedSharding:
  """Returns the sharding of an array with these logical axes on `mesh`."""
  return NamedSharding(mesh, partition_spec(axes))


def check_divides(mesh_shape: dict[str, int], path: str, shape: tuple[int, ...], axes: AxisNames):
  """Raises MeshError if a dimension is not a multiple of the devices it is split over."""
  for size, name in zip(shape, axes, strict=True):
    mesh_axes = None if name is None else _rule(name)
    if mesh_axes is None:
      continue
    mesh_axes = (mesh_axes,) if isinstance(mesh_axes, str) else mesh_axes
    devices = math.prod(mesh_shape[axis] for axis in mesh_axes)
    if size % devices:
      fits = [n for n in range(1, devices + 1) if size % n == 0]
      raise MeshError(
        f"{path} does not divide over the mesh.",
        value=f"axis {name!r} has size {size}, mesh axis {' * '.join(mesh_axes)} has {devices}",
        rule="a dimension is a multiple of the devices it is split over",
        remedy=f"{' * '.join(mesh_axes)} of {', '.join(map(str, fits))}",
      )
