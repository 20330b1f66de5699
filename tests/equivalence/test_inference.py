# SPDX-License-Identifier: Apache-2.0
"""Dropless routing: a sentence's logits are the same bits alone and in any batch."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from switch_t5.model.definition import define_model
from switch_t5.model.router_config import RouterConfig
from switch_t5.sharding.mesh import MeshShape, make_mesh

ROUTERS = {
  "top-1": {},
  "top-2": {"encoder_router": RouterConfig(num_selected_experts=2)},
  "expert choice": {"encoder_router": RouterConfig(kind="expert_choice")},
  "hash, random": {
    "encoder_router": RouterConfig(kind="hash"),
    "decoder_router": RouterConfig(kind="random"),
  },
}


@pytest.mark.parametrize("routers", ROUTERS)
def test_logits_do_not_depend_on_the_batch(tiny_config, random_params, tiny_batch, routers):
  definition = define_model(dataclasses.replace(tiny_config, **ROUTERS[routers]))
  params = random_params(definition)
  batch = tiny_batch((12, 9))
  # One program for every batch: XLA on CPU sums rows of other shapes in other orders.
  logits = jax.jit(lambda batch: definition.build(params)(batch, capacity_factor=None).logits)

  def rows(selection):
    """Runs these sequences, and as much padding as fills the batch."""
    fill = ((0, len(batch["encoder_input_tokens"]) - len(selection)), (0, 0))
    part = {name: np.pad(x[selection], fill) for name, x in batch.items()}
    return np.asarray(logits(part)).reshape(-1, 9, 128)[: len(selection)]

  with jax.set_mesh(make_mesh(MeshShape())):
    together = rows(list(range(16)))
    for selection in ([3], [11, 3, 7], list(range(15, -1, -1)), [5] * 16):
      np.testing.assert_array_equal(rows(selection), together[selection])
