# SPDX-License-Identifier: Apache-2.0
"""The router of the Switch layer (paper section 2.1). All of it is float32."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from switch_t5.layers.dense import Dense
from switch_t5.sharding.annotate import gathered
from switch_t5.types import Array, PRNGKey


class Routing(NamedTuple):
  """Where each token goes, best choice first.

  Attributes:
    expert_index: int32 [G, N, k].
    gate: float32 [G, N, k], the factor of that expert's output.
  """

  expert_index: Array
  gate: Array


def top1(router_probs: Array) -> Routing:
  """Sends each token to its most probable expert, scaled by that raw probability (eq. 1-2).

  Args:
    router_probs: float32 [G, N, E].
  """
  expert_index = jnp.argmax(router_probs, axis=-1, keepdims=True)
  gate = jnp.take_along_axis(router_probs, expert_index, axis=-1)
  return Routing(expert_index.astype(jnp.int32), gate)


def jitter(x: Array, noise: float, key: PRNGKey | None) -> Array:
  """Returns float32 x times uniform(1 - noise, 1 + noise) (App. C); unchanged without a key."""
  x = x.astype(jnp.float32)
  if key is None or noise == 0.0:
    return x
  return x * jax.random.uniform(key, x.shape, minval=1.0 - noise, maxval=1.0 + noise)


class RouterWeights(nnx.Module):
  """W_r, [d, E], no bias, under the name Flaxformer gives it: `router_weights/w/kernel`."""

  def __init__(self, d_model: int, num_experts: int, *, scale: float, rngs: nnx.Rngs):
    axes = ("embed", "router_experts")
    self.w = Dense(d_model, num_experts, axes=axes, scale=scale, dtype=jnp.float32, rngs=rngs)


class Router(nnx.Module):
  """Holds the router's weights.

  Args:
    d_model: d.
    num_experts: E.
    scale: of the initialiser.
    rngs: stream `params`.
  """

  def __init__(self, d_model: int, num_experts: int, *, scale: float, rngs: nnx.Rngs):
    self.router_weights = RouterWeights(d_model, num_experts, scale=scale, rngs=rngs)

  @property
  def kernel(self) -> Array:
    """W_r, float32 [d, E]."""
    return gathered(self.router_weights.w.kernel, jnp.float32)
