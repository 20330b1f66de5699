# SPDX-License-Identifier: Apache-2.0
"""Logical axes of the optimizer's state."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from switch_t5.optim.adafactor import adafactor, num_batch_axes
from switch_t5.optim.state_axes import optimizer_state_axes

AXES = {
  "expert_wi": ("layers", "expert", "embed", "mlp"),
  "scale": ("layers", "embed"),
  "embedding": ("vocab", "embed"),
  "final_scale": ("embed",),
}
SHAPES = {
  "expert_wi": jax.ShapeDtypeStruct((2, 3, 128, 256), jnp.float32),
  "scale": jax.ShapeDtypeStruct((2, 128), jnp.float32),
  "embedding": jax.ShapeDtypeStruct((256, 128), jnp.float32),
  "final_scale": jax.ShapeDtypeStruct((128,), jnp.float32),
}


def make_adafactor():
  batch_axes = {name: num_batch_axes(axes) for name, axes in AXES.items()}
  return adafactor(optax.constant_schedule(1e-3), batch_axes=batch_axes)


def test_full_moments_are_laid_out_as_their_parameter_and_factored_ones_keep_batch_axes():
  axes = optimizer_state_axes(make_adafactor(), SHAPES, AXES)
  assert axes.count == ()
  assert axes.v_row == {
    "expert_wi": ("layers", "expert", None),
    "scale": ("layers", None),
    "embedding": (None,),
    "final_scale": (None,),
  }
  assert axes.v_col == axes.v_row
  assert axes.v == {
    "expert_wi": ("layers", "expert", None),
    "scale": ("layers", "embed"),
    "embedding": (None,),
    "final_scale": ("embed",),
  }


def test_every_dimension_of_the_state_has_a_name_or_none():
  optimizer = make_adafactor()
  state = jax.eval_shape(optimizer.init, SHAPES)
  axes = optimizer_state_axes(optimizer, SHAPES, AXES)
  matches = jax.tree.map(lambda leaf, names: len(names) == leaf.ndim, state, axes)
  assert all(jax.tree.leaves(matches))
