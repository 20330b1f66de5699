# SPDX-License-Identifier: Apache-2.0
"""Adafactor as T5 uses it (Shazeer & Stern, 2018), per layer and per expert.

Second moments are factored into a row and a column vector (section 3), updates are clipped at their
RMS (section 6), the decay rate is 1 - t^-0.8 (section 7.2) and the step is relative to the RMS of the
parameter (section 8). All of these see one matrix. Here a leaf may be a stack of matrices, over the
repeats of a scanned block and over experts, so optax's pieces run under `jax.vmap` over a leaf's
leading axes: each layer and each expert has its own moments, clipping and scale, and no layer or
expert changes the update of another.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from switch_t5.optim.clipping import clip_gradients
from switch_t5.types import AxisNames, PyTree

BATCH_AXIS_NAMES = ("layers", "expert")


class AdafactorState(NamedTuple):
  """State of `adafactor`; the trees mirror the parameters.

  A leaf uses either v_row and v_col or v; what it does not use is zeros of its batch axes + (1,).

  Attributes:
    count: int32 [], updates done: the step whose learning rate the next update takes.
    v_row: means of g^2 over the largest axis of each matrix.
    v_col: means of g^2 over the second largest axis.
    v: means of g^2 over steps only, of leaves that are not factored.
  """

  count: PyTree  # (a plain Array would clash with tuple.count)
  v_row: PyTree
  v_col: PyTree
  v: PyTree


def adafactor(
  learning_rate: optax.Schedule,
  *,
  batch_axes: PyTree,
  decay_rate: float = 0.8,
  clipping_threshold: float = 1.0,
  min_dim_size_to_factor: int = 128,
  multiply_by_parameter_scale: bool = True,
  epsilon1: float = 1e-30,
  epsilon2: float = 1e-3,
  global_norm_clip_threshold: float | None = None,
) -> optax.GradientTransformation:
  """Makes the optimizer; its updates already carry the learning rate and the sign.

  The rate that an update takes is `learning_rate(state.count)`, of the state before it: the first
  update takes `learning_rate(0)`.

  Args:
    learning_rate: maps the step to the relative step size.
    batch_axes: for each leaf of the parameters, how many of its leading axes are stacked matrices
      (`num_batch_axes`).
    decay_rate: c of the second moments' decay 1 - t^-c, where t counts from 1.
    clipping_threshold: the largest RMS of an update before it is scaled.
    min_dim_size_to_factor: a matrix is factored if its two largest axes have at least this size.
    multiply_by_parameter_scale: whether the step is relative to the RMS of the parameter.
    epsilon1: added to g^2.
    epsilon2: the least RMS a parameter is taken to have.
    global_norm_clip_threshold: see `clip_gradients`; beside the clipping of each matrix.
  """
  second_moment = optax.scale_by_factored_rms(
    decay_rate=decay_rate, min_dim_size_to_factor=min_dim_size_to_factor, epsilon=epsilon1
  )
  clip = optax.clip_by_block_rms(clipping_threshold)
  scale = (
    optax.scale_by_param_block_rms(epsilon2) if multiply_by_parameter_scale else optax.identity()
  )
  clip_and_scale = optax.chain(clip, scale)

  def init_matrix(param):
    state = second_moment.init(param)
    return state.v_row, state.v_col, state.v

  def update_matrix(count, grad, v_row, v_col, v, param):
    state = optax.FactoredState(count, v_row, v_col, v)
    update, state = second_moment.update(grad, state, param)
    update, _ = clip_and_scale.update(update, clip_and_scale.init(param), param)
    return update, state.v_row, state.v_col, state.v

  def init(params):
    moments = jax.tree.map(lambda n, p: _over_batch_axes(init_matrix, n)(p), batch_axes, params)
    return AdafactorState(jnp.zeros((), jnp.int32), *_transpose(params, moments, 3))

  @functools.partial(jax.jit, static_argnums=0)  # leaves of one shape are traced once
  def update_leaf(num_axes, count, *leaves):
    return _over_batch_axes(functools.partial(update_matrix, count), num_axes)(*leaves)

  def update(grads, state, params):
    results = jax.tree.map(
      lambda num_axes, *leaves: update_leaf(num_axes, state.count, *leaves),
      batch_axes,
      grads,
      state.v_row,
      state.v_col,
      state.v,
      params,
    )
    directions, *moments = _transpose(params, results, 4)
    step_size = learning_rate(state.count)
    updates = jax.tree.map(lambda u: -step_size * u, directions)
    return updates, AdafactorState(optax.safe_increment(state.count), *moments)

  optimizer = optax.GradientTransformation(init, update)
  return clip_gradients(optimizer, global_norm_clip_threshold)


def _over_batch_axes(function, num_axes):
  """Maps `function` over that many leading axes of all its arguments."""
  for _ in range(num_axes):
    function = jax.vmap(function)
  return function


def _transpose(params, tree_of_tuples, size):
  """Turns a tree of tuples into a tuple of trees like `params`."""
  inner = jax.tree.structure((0,) * size)
  return jax.tree.transpose(jax.tree.structure(params), inner, tree_of_tuples)


def num_batch_axes(axes: AxisNames) -> int:
  """Counts the leading axes of a parameter that stack matrices: those of layers and experts."""
  for position, name in enumerate(axes):
    if name not in BATCH_AXIS_NAMES:
      return position
  return len(axes)
