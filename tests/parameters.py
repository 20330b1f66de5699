# SPDX-License-Identifier: Apache-2.0
"""Parameters of any model, drawn on the host."""

from __future__ import annotations

import jax
import numpy as np

from switch_t5.model.definition import ModelDefinition
from switch_t5.types import PyTree


def random_params(definition: ModelDefinition) -> PyTree:
  """Drawn on the host: compiling an initialiser costs seconds."""
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    fan_in = 1 if path[-1].key in ("scale", "embedding", "rel_embedding") else leaf.shape[-2]
    return rng.normal(path[-1].key == "scale", 0.5 * fan_in**-0.5, leaf.shape).astype(leaf.dtype)

  return jax.tree_util.tree_map_with_path(draw, definition.shapes)
