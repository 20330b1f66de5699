# SPDX-License-Identifier: Apache-2.0
"""AdamW against the paper's algorithm in NumPy, and clipping by the global norm."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from switch_t5.errors import ConfigError
from switch_t5.optim.adafactor import adafactor
from switch_t5.optim.adamw import adamw
from switch_t5.optim.schedules import learning_rate_schedule
from switch_t5.optim.state_axes import optimizer_state_axes

AXES = {
  "kernel": ("layers", "embed", "mlp"),
  "norm": ("layers", "embed"),
  "table": ("vocab", "embed"),
}
BATCH_AXES = {"kernel": 1, "norm": 1, "table": 0}
SHAPES = {"kernel": (2, 4, 6), "norm": (2, 4), "table": (5, 4)}
SCHEDULE = learning_rate_schedule("constant * linear_warmup", 0.1, warmup_steps=4)


@pytest.fixture(autouse=True)
def optax_promotes():
  """Optax's Adam raises a float to an integer step."""
  with jax.numpy_dtype_promotion("standard"):
    yield


def random_tree(seed):
  rng = np.random.default_rng(seed)
  return {name: jnp.asarray(rng.normal(size=s), jnp.float32) for name, s in SHAPES.items()}


def updated(optimizer, num_steps):
  params = random_tree(0)
  state, update = optimizer.init(params), jax.jit(optimizer.update)
  for step in range(num_steps):
    updates, state = update(random_tree(step + 1), state, params)
    params = optax.apply_updates(params, updates)
  return params


def naive_adamw(name, num_steps, b1=0.9, b2=0.999, epsilon=1e-8, decay=0.1):
  x = np.asarray(random_tree(0)[name], np.float64)
  m, v = np.zeros_like(x), np.zeros_like(x)
  for t in range(1, num_steps + 1):
    g = np.asarray(random_tree(t)[name], np.float64)
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
    direction = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + epsilon)
    rate = max(0.1 * min(1.0, (t - 1) / 4), 1e-8)  # the first update takes the rate of step 0
    x = x - rate * (direction + (0.0 if name == "norm" else decay) * x)
  return x


@pytest.mark.parametrize("name", SHAPES)
def test_adamw_follows_the_papers_algorithm_and_does_not_decay_norms(name):
  params = updated(adamw(SCHEDULE, batch_axes=BATCH_AXES, weight_decay=0.1), 6)
  np.testing.assert_allclose(params[name], naive_adamw(name, 6), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("threshold", [0.5, 1e6])
@pytest.mark.parametrize("make", [adafactor, adamw])
def test_gradients_above_the_threshold_are_scaled_down_to_it_together(make, threshold):
  grads, params = random_tree(1), random_tree(0)
  norm = np.sqrt(sum((np.asarray(g) ** 2).sum() for g in grads.values()))
  scale = min(1.0, threshold / norm)
  clipped = make(SCHEDULE, batch_axes=BATCH_AXES, global_norm_clip_threshold=threshold)
  plain = make(SCHEDULE, batch_axes=BATCH_AXES)
  got, _ = clipped.update(grads, clipped.init(params), params)
  want, _ = plain.update(jax.tree.map(lambda g: g * scale, grads), plain.init(params), params)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got, want)


def test_a_threshold_that_is_not_positive_is_refused():
  with pytest.raises(ConfigError, match="global_norm_clip_threshold"):
    adamw(SCHEDULE, batch_axes=BATCH_AXES, global_norm_clip_threshold=0.0)


def test_both_moments_of_adamw_are_laid_out_as_their_parameter():
  optimizer = adamw(SCHEDULE, batch_axes=BATCH_AXES, global_norm_clip_threshold=1.0)
  shapes = {n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in SHAPES.items()}
  axes = optimizer_state_axes(optimizer, shapes, AXES)
  state = jax.eval_shape(optimizer.init, shapes)
  assert all(jax.tree.leaves(jax.tree.map(lambda leaf, n: len(n) == leaf.ndim, state, axes)))
  found = jax.tree.leaves(axes, is_leaf=lambda node: node in AXES.values())
  assert [found.count(names) for names in AXES.values()] == [2, 2, 2]
  moments = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim]
  assert len(moments) == 6 and all(leaf.dtype == jnp.float32 for leaf in moments)
