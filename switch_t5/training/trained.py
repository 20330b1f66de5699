# SPDX-License-Identifier: Apache-2.0
"""Which parameters a run trains: all, those of the experts, or all others (ST-MoE, section 4.2).

What belongs to an expert is said by the axis `expert` of a parameter, so a router, whose weights all
experts share, is dense. What is not trained is frozen: it gets no gradient and no update.
"""

from __future__ import annotations

import jax

from switch_t5.errors import ConfigError
from switch_t5.model.definition import ModelDefinition
from switch_t5.types import PyTree

ALL, DENSE, EXPERTS = "all", "dense", "experts"
TRAINED = (ALL, DENSE, EXPERTS)


def trained_parameters(definition: ModelDefinition, trained: str) -> PyTree:
  """Returns the parameters' tree with True for each that is trained, False for each frozen one.

  Args:
    definition: of the model.
    trained: one of `TRAINED`.

  Raises:
    ConfigError: if the model has no experts, and only they would be trained.
  """

  def is_trained(_, axes):
    return trained == ALL or ("expert" in axes) == (trained == EXPERTS)

  chosen = jax.tree.map(is_trained, definition.shapes, definition.axes)
  if not any(jax.tree.leaves(chosen)):
    raise ConfigError(
      "No parameter would be trained.",
      value=f"train.trained = {trained!r}, and the model is dense",
      rule=f"{EXPERTS!r} is for a model with experts",
      remedy=f"train.trained = {ALL!r}, or a Switch model's file",
    )
  return chosen


def select(params: PyTree, chosen: PyTree) -> PyTree:
  """Returns the chosen leaves, and None, which JAX takes for no leaf, in place of the others."""
  return jax.tree.map(lambda leaf, is_chosen: leaf if is_chosen else None, params, chosen)


def merge(selected: PyTree, params: PyTree) -> PyTree:
  """Returns `params` with the leaves that `selected` has in their place."""
  return jax.tree.map(
    lambda leaf, other: other if leaf is None else leaf,
    selected,
    params,
    is_leaf=lambda leaf: leaf is None,
  )
