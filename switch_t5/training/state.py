# SPDX-License-Identifier: Apache-2.0
"""The training state: abstract first, then born sharded inside jit."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from switch_t5.model.definition import ModelDefinition
from switch_t5.optim.state_axes import optimizer_state_axes
from switch_t5.sharding.rules import RULES, Rules, check_divides, named_sharding
from switch_t5.types import PyTree


class TrainState(NamedTuple):
  """What a step updates and a checkpoint keeps.

  Attributes:
    step: int32 [], steps done.
    params: nested dict, float32.
    opt_state: of the optimizer.
  """

  step: Any
  params: PyTree
  opt_state: PyTree


def abstract_state(
  definition: ModelDefinition,
  optimizer: optax.GradientTransformation,
  mesh: Mesh,
  rules: Rules = RULES,
) -> TrainState:
  """Returns the state as jax.ShapeDtypeStruct with shardings; nothing is allocated.

  Args:
    definition: of the model.
    optimizer: of its parameters.
    mesh: of the devices.
    rules: one of `PARAMETER_RULES`.

  Raises:
    MeshError: if a parameter does not divide over the mesh.
  """
  shapes = TrainState(
    jax.ShapeDtypeStruct((), jnp.int32),
    definition.shapes,
    jax.eval_shape(optimizer.init, definition.shapes),
  )
  axes = TrainState(
    (), definition.axes, optimizer_state_axes(optimizer, definition.shapes, definition.axes)
  )

  return _laid_out(shapes, axes, mesh, rules)


def abstract_params(definition: ModelDefinition, mesh: Mesh, rules: Rules = RULES) -> PyTree:
  """Returns the parameters alone as `abstract_state` returns them; raises the same."""
  return _laid_out(definition.shapes, definition.axes, mesh, rules)


def _laid_out(shapes: PyTree, axes: PyTree, mesh: Mesh, rules: Rules) -> PyTree:
  """Returns the shapes with shardings by the logical names of their axes."""

  def place(path, leaf, names):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    check_divides(dict(mesh.shape), name, leaf.shape, names, rules)
    sharding = named_sharding(mesh, names, rules)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

  return jax.tree_util.tree_map_with_path(place, shapes, axes)


def device_bytes(abstract: PyTree) -> int:
  """Returns the bytes that abstract arrays with shardings take of one device."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(abstract)
  )


def shardings(abstract: PyTree) -> PyTree:
  """Returns the shardings of abstract arrays."""
  return jax.tree.map(lambda leaf: leaf.sharding, abstract)
