# SPDX-License-Identifier: Apache-2.0
"""Stacks of several runs of blocks, dense and sparse, train on every mesh as on one device."""

from __future__ import annotations

import pytest

LAYERS = {"num_encoder_layers": 3, "num_encoder_sparse_layers": 1, "num_decoder_layers": 2}
LAYOUTS = {
  "middle, top": {"encoder_sparse_layout": "middle", "decoder_sparse_layout": "top"},
  "bottom, all": {
    "encoder_sparse_layout": "bottom",
    "decoder_sparse_layout": "all",
    "num_decoder_sparse_layers": 2,
  },
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_losses_and_gradients_of_a_layout_are_those_of_one_device(train, assert_same_step, layout):
  assert_same_step(train((2, 2, 2), **LAYERS, **layout), train(**LAYERS, **layout))
