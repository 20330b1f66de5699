# SPDX-License-Identifier: Apache-2.0
"""The training state: abstract first, then born sharded inside jit."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from switch_t5.model.definition import ModelDefinition
from switch_t5.optim.state_axes import optimizer_state_axes
from switch_t5.sharding.rules import check_divides, named_sharding, tree_paths
from switch_t5.types import Array, PyTree


class TrainState(NamedTuple):
  """What a step updates and a checkpoint keeps.

  Attributes:
    step: int32 [], steps done.
    params: nested dict, float32.
    opt_state: of the optimizer.
  """

  step: Array
  params: PyTree
  opt_state: PyTree


def abstract_state(
  definition: ModelDefinition, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
  """Returns the state as jax.ShapeDtypeStruct with shardings; nothing is allocated.

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
  flat, structure = jax.tree.flatten(shapes)
  flat_axes = structure.flatten_up_to(axes)
  for path, leaf, names in zip(tree_paths(shapes), flat, flat_axes, strict=True):
    check_divides(dict(mesh.shape), path, leaf.shape, names)
  placed = [
    jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=named_sharding(mesh, names))
    for leaf, names in zip(flat, flat_axes, strict=True)
  ]
  return jax.tree.unflatten(structure, placed)


def shardings(abstract: PyTree) -> PyTree:
  """Returns the shardings of abstract arrays."""
  return jax.tree.map(lambda leaf: leaf.sharding, abstract)
