# SPDX-License-Identifier: Apache-2.0
"""Every router trains on eight devices as on one, with the noise that it draws."""

from __future__ import annotations

import numpy as np
import pytest

from switch_t5.model.router_config import RouterConfig

LAYERS = {"num_encoder_layers": 1, "num_encoder_sparse_layers": 1}
MODELS = {
  "top-2 with second choices by chance, sampled": {
    "encoder_router": RouterConfig(
      num_selected_experts=2, renormalize_gates=True, second_expert_policy="random"
    ),
    "decoder_router": RouterConfig(exploration="sample", balance_scope="global"),
  },
  "expert choice, no token left behind with input dropout": {
    "encoder_router": RouterConfig(kind="expert_choice"),
    "decoder_router": RouterConfig(no_token_left_behind=3, exploration="input_dropout"),
  },
  "batch-prioritised, random": {
    "encoder_router": RouterConfig(batch_prioritized=True, num_selected_experts=2),
    "decoder_router": RouterConfig(kind="random"),
  },
  "dropless in attention too, sigmoid with a bias, hash, shared and narrow experts": {
    "encoder_router": RouterConfig(
      scores="sigmoid", num_selected_experts=3, renormalize_gates=True, bias_update_rate=0.01
    ),
    "decoder_router": RouterConfig(kind="hash"),
    "train_capacity_factor": None,
    "sparse_sublayers": "both",
    "expert_d_ff": 16,
    "num_shared_experts": 1,
  },
}


@pytest.mark.parametrize("name", MODELS)
def test_steps_on_eight_devices_are_those_on_one(train, assert_same_step, name):
  one, eight = train(**LAYERS, **MODELS[name]), train((2, 2, 2), **LAYERS, **MODELS[name])
  assert_same_step(eight, one)
  losses = [[sums.loss for sums in run.sums] for run in (eight, one)]
  np.testing.assert_allclose(*losses, rtol=1e-4)
  assert losses[1][-1] < losses[1][0]
