# SPDX-License-Identifier: Apache-2.0
"""Adafactor against optax on each matrix alone, and against the paper's algorithm in NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from switch_t5.optim.adafactor import adafactor, num_batch_axes
from switch_t5.optim.schedules import learning_rate_schedule

AXES = {
  "expert_wi": ("layers", "expert", "embed", "mlp"),
  "query": ("layers", "embed", "joined_kv"),
  "scale": ("layers", "embed"),
  "embedding": ("vocab", "embed"),
  "final_scale": ("embed",),
}
SHAPES = {
  "expert_wi": (2, 3, 8, 12),
  "query": (2, 8, 8),
  "scale": (2, 8),
  "embedding": (16, 8),
  "final_scale": (8,),
}
BATCH_AXES = {name: num_batch_axes(axes) for name, axes in AXES.items()}
MIN_DIM = 8
SCHEDULE = learning_rate_schedule(warmup_steps=2)  # constant up to step 2


@pytest.fixture
def float64():
  """Ten digits tell a wrong axis from rounding (optax's decay rate stays float32: promote)."""
  with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
    yield


def random_tree(seed, scales=(1.0, 10.0)):
  """Draws a tree whose slices differ in scale, so that statistics taken over a stack would show."""
  rng = np.random.default_rng(seed)
  tree = {}
  for name, shape in SHAPES.items():
    lead = shape[: BATCH_AXES[name]]
    scale = rng.uniform(*scales, size=(*lead, *[1] * (len(shape) - len(lead))))
    tree[name] = jnp.asarray(scale * rng.normal(size=shape))
  return tree


def gradients(step):
  return random_tree(100 + step, (1e-3, 10.0))


def run(optimizer, params, num_steps):
  update, state = jax.jit(optimizer.update), optimizer.init(params)
  for step in range(num_steps):
    updates, state = update(gradients(step), state, params)
    params = optax.apply_updates(params, updates)
  return params, state


def make(**kwargs):
  return adafactor(SCHEDULE, batch_axes=BATCH_AXES, min_dim_size_to_factor=MIN_DIM, **kwargs)


def slices(name):
  return np.ndindex(*SHAPES[name][: BATCH_AXES[name]])


def test_every_layer_and_expert_is_updated_as_if_alone(float64):
  params = random_tree(0)
  updated, _ = run(make(), params, 4)
  alone = optax.adafactor(SCHEDULE, min_dim_size_to_factor=MIN_DIM)
  update_alone = jax.jit(alone.update)
  for name in SHAPES:
    for index in slices(name):
      param = params[name][index]
      state = alone.init(param)
      for step in range(4):
        update, state = update_alone(gradients(step)[name][index], state, param)
        param = optax.apply_updates(param, update)
      np.testing.assert_allclose(updated[name][index], param, rtol=1e-10, atol=1e-10)


def naive_adafactor(param, grads, rates, epsilon1=1e-30, epsilon2=1e-3, threshold=1.0):
  """Algorithms 4 and 5 of the paper with the settings of its Table 3, in float64, for one matrix."""
  x = np.asarray(param, np.float64)
  factored = x.ndim == 2 and min(x.shape) >= MIN_DIM
  rows = np.zeros(x.shape[0]) if factored else None
  columns = np.zeros(x.shape[1]) if factored else None
  v = np.zeros(x.shape)
  for t, (grad, rate) in enumerate(zip(grads, rates, strict=True), start=1):
    g = np.asarray(grad, np.float64)
    beta2 = 1 - t**-0.8
    squared = g**2 + epsilon1
    if factored:
      rows = beta2 * rows + (1 - beta2) * squared.sum(axis=1)
      columns = beta2 * columns + (1 - beta2) * squared.sum(axis=0)
      v = np.outer(rows, columns) / rows.sum()
    else:
      v = beta2 * v + (1 - beta2) * squared
    u = g / np.sqrt(v)
    u = u / max(1.0, np.sqrt((u**2).mean()) / threshold)
    step_size = max(epsilon2, np.sqrt((x**2).mean())) * rate
    x = x - step_size * u
  return x


def test_follows_the_papers_algorithm(float64):
  params = random_tree(0)
  updated, _ = run(make(), params, 5)
  rates = [1 / np.sqrt(max(t, 2)) for t in range(5)]
  for name in SHAPES:
    for index in slices(name):
      grads = [gradients(step)[name][index] for step in range(5)]
      expected = naive_adafactor(params[name][index], grads, rates)
      # The rate and the decay are float32 whatever the parameters are.
      np.testing.assert_allclose(updated[name][index], expected, rtol=1e-6, atol=1e-6)


def test_float32_state_is_donated_and_counts_on():
  optimizer = make()
  params = random_tree(0)
  state = optimizer.init(params)
  update = jax.jit(optimizer.update, donate_argnums=(1,))
  for step in range(3):  # a state that cannot be donated warns, and warnings are errors
    old = state
    updates, state = update(gradients(step), state, params)
    params = optax.apply_updates(params, updates)
    assert old.v_row["query"].is_deleted() and old.v["scale"].is_deleted()
  assert state.count == 3
  for name in SHAPES:
    assert params[name].dtype == state.v[name].dtype == state.v_row[name].dtype == jnp.float32


def test_one_count_and_factored_shapes_per_matrix():
  state = make().init(random_tree(0))
  assert state.count.shape == () and state.count.dtype == jnp.int32
  assert jax.tree.map(jnp.shape, state.v_row) == {
    "expert_wi": (2, 3, 8),  # the larger axis is averaged away
    "query": (2, 8),
    "scale": (2, 1),
    "embedding": (8,),
    "final_scale": (1,),
  }
  assert jax.tree.map(jnp.shape, state.v_col)["expert_wi"] == (2, 3, 12)
  assert jax.tree.map(jnp.shape, state.v) == {
    "expert_wi": (2, 3, 1),
    "query": (2, 1),
    "scale": (2, 8),
    "embedding": (1,),
    "final_scale": (8,),
  }


def test_stacked_axes_are_counted_from_the_left():
  assert num_batch_axes(("layers", "expert", "embed", "mlp")) == 2
  assert num_batch_axes(("embed", "router_experts")) == 0
  assert num_batch_axes(("layers",)) == 1
  assert num_batch_axes(()) == 0


@pytest.mark.parametrize(
  ("change", "num_steps"),
  [
    ({"clipping_threshold": 0.1}, 1),
    ({"multiply_by_parameter_scale": False}, 1),
    ({"epsilon2": 1e3}, 1),
    ({"decay_rate": 0.5}, 2),
  ],
)
def test_setting_reaches_the_update(change, num_steps):
  def query_after(**change):
    optimizer = adafactor(
      SCHEDULE, batch_axes={"query": 1}, min_dim_size_to_factor=MIN_DIM, **change
    )
    params = {"query": random_tree(0)["query"]}
    state = optimizer.init(params)
    for step in range(num_steps):
      updates, state = optimizer.update({"query": gradients(step)["query"]}, state, params)
    return updates["query"]

  assert not np.allclose(query_after(**change), query_after(), rtol=1e-2)
