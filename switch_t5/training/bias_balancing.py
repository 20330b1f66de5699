# SPDX-License-Identifier: Apache-2.0
"""Balances experts without a loss: after a step each router's bias moves by its experts' load.

The bias lies among the parameters, so that it is saved, laid out and evaluated as they are. No
gradient reaches it, and what the optimizer makes of it is not used.
"""

from __future__ import annotations

from collections import defaultdict

import jax
import numpy as np

from switch_t5.layers.moe.routers.loss_free_balancing import updated_bias
from switch_t5.model.config import ModelConfig
from switch_t5.model.router_places import router_places
from switch_t5.types import Array, PyTree


def balance_biases(
  config: ModelConfig, params: PyTree, updated: PyTree, expert_load: Array
) -> PyTree:
  """Returns `updated` with each router's bias moved from where it was in `params`.

  Args:
    config: of the model.
    params: before the step.
    updated: after the optimizer's update.
    expert_load: float32 [routers, E], of the whole step.
  """
  routers: dict[tuple[str, ...], list[int]] = defaultdict(list)
  rates = {}
  for i, place in enumerate(router_places(config)):
    rate = config.router(place.stack).bias_update_rate
    if rate > 0:
      routers[*place.path, "bias"].append(i)  # in the order of the repeats
      rates[*place.path, "bias"] = rate
  if not routers:
    return updated

  def move(path, old, new):
    names = tuple(key.key for key in path)
    if names not in routers:
      return new
    return updated_bias(old, expert_load[np.asarray(routers[names])], rates[names])

  return jax.tree_util.tree_map_with_path(move, params, updated)
