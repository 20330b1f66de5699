# SPDX-License-Identifier: Apache-2.0
"""Logical axis names of an optimizer's state, derived from those of the parameters."""

from __future__ import annotations

import jax
import optax

from switch_t5.optim.adafactor import num_batch_axes
from switch_t5.types import AxisNames, PyTree


def optimizer_state_axes(
  optimizer: optax.GradientTransformation, params_shapes: PyTree, params_axes: PyTree
) -> PyTree:
  """Returns the state's tree with a tuple of logical axis names in place of each array.

  A leaf of its parameter's shape is laid out as the parameter. Others (factored second moments) are
  small: they keep the axes of layers and experts and are whole on every device otherwise. What does
  not mirror the parameters (counts) is replicated.

  Args:
    optimizer: its init must be traceable.
    params_shapes: tree of jax.ShapeDtypeStruct.
    params_axes: the same tree of `AxisNames`.
  """
  structure: PyTree = jax.tree.structure(params_shapes)

  def leaf_axes(param: jax.ShapeDtypeStruct, axes: AxisNames, leaf: jax.ShapeDtypeStruct):
    if leaf.shape == param.shape:
      return axes
    stacked = axes[: num_batch_axes(axes)]
    return (*stacked, *(None,) * (len(leaf.shape) - len(stacked)))

  def node_axes(node: PyTree) -> PyTree:
    if jax.tree.structure(node) == structure:
      return jax.tree.map(leaf_axes, params_shapes, params_axes, node)
    if isinstance(node, tuple):
      children = [node_axes(child) for child in node]
      return type(node)(*children) if hasattr(node, "_fields") else tuple(children)
    return (None,) * len(node.shape)

  return node_axes(jax.eval_shape(optimizer.init, params_shapes))
