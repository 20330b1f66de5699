# SPDX-License-Identifier: Apache-2.0
"""A sentence's logits are the same bits alone and in any batch, encoder and decoder."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from switch_t5.model.definition import define_model
from switch_t5.model.inference import infer
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
  logits = jax.jit(lambda batch: infer(definition.build(params), batch).logits)

  def rows(selection):
    part = {name: x[selection] for name, x in batch.items()}
    return np.asarray(logits(part)).reshape(len(selection), 9, -1)

  with jax.set_mesh(make_mesh(MeshShape())):
    together = rows(list(range(16)))
    np.testing.assert_array_equal(rows([3]), together[[3]])
    np.testing.assert_array_equal(rows([11, 3, 7]), together[[11, 3, 7]])
    many = list(range(16)) * 3 + [5]
    np.testing.assert_array_equal(rows(many), together[many])
