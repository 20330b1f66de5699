# SPDX-License-Identifier: Apache-2.0
"""The birth of a state: drawn inside jit, every device its own shards."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from switch_t5.model.definition import ModelDefinition
from switch_t5.training.state import TrainState, shardings
from switch_t5.types import Array


def init_state(
  definition: ModelDefinition,
  optimizer: optax.GradientTransformation,
  abstract: TrainState,
  seed: int,
) -> TrainState:
  """Draws a new state, each device its own shards; the values do not depend on the mesh."""

  def init(seed: Array) -> TrainState:
    params = definition.init(jax.random.key(seed))
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

  return jax.jit(init, out_shardings=shardings(abstract))(np.uint32(seed))
