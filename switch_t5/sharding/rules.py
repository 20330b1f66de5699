# SPDX-License-Identifier: Apache-2.0
"""From logical axes to mesh axes: a table for activations, and one for what a run stores.

Layers compute with parameters that are laid out by the table of activations (`annotate.gathered`).
Between their uses, parameters, their gradients and the optimizer's state lie as the run's table of
`PARAMETER_RULES` says.
"""

from __future__ import annotations

import math

from jax.sharding import Mesh, NamedSharding, PartitionSpec

from switch_t5.errors import MeshError, suggest
from switch_t5.sharding.mesh import DATA, EXPERT, MODEL
from switch_t5.types import AxisNames

Rules = dict[str, str | tuple[str, ...] | None]

RULES: Rules = {
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
# What `train.parameter_sharding` chooses from. Every kernel, norm and table has one axis `embed`.
PARAMETER_RULES: dict[str, Rules] = {
  "replicated": RULES,
  "fsdp": RULES | {"embed": DATA},
}


def partition_spec(axes: AxisNames, rules: Rules = RULES) -> PartitionSpec:
  """Returns the mesh axes of an array whose dimensions have these logical names (or None)."""
  return PartitionSpec(*(None if name is None else _rule(name, rules) for name in axes))


def _rule(name: str, rules: Rules) -> str | tuple[str, ...] | None:
  if name not in rules:
    raise KeyError(f"No logical axis is named {name!r}. {suggest(name, rules)}")
  return rules[name]


def named_sharding(mesh: Mesh, axes: AxisNames, rules: Rules = RULES) -> NamedSharding:
  """Returns the sharding of an array with these logical axes on `mesh`."""
  return NamedSharding(mesh, partition_spec(axes, rules))


def check_divides(
  mesh_shape: dict[str, int],
  path: str,
  shape: tuple[int, ...],
  axes: AxisNames,
  rules: Rules = RULES,
) -> None:
  """Raises MeshError if a dimension is not a multiple of the devices it is split over."""
  for size, name in zip(shape, axes, strict=True):
    if name is None or (mesh_axes := _rule(name, rules)) is None:
      continue
    mesh_axes = (mesh_axes,) if isinstance(mesh_axes, str) else mesh_axes
    devices = math.prod(mesh_shape[axis] for axis in mesh_axes)
    if size % devices:
      over = " * ".join(mesh_axes)
      fits = [n for n in range(1, devices + 1) if size % n == 0]
      remedy = f"{over} of {', '.join(map(str, fits))}"
      if rules[name] != RULES[name]:  # split by choice
        remedy = f"train.parameter_sharding = 'replicated', or {remedy}"
      raise MeshError(
        f"{path} does not divide over the mesh.",
        value=f"axis {name!r} has size {size}, mesh axis {over} has {devices}",
        rule=f"{name} -> {over}: a dimension is a multiple of the devices it is split over",
        remedy=remedy,
      )
