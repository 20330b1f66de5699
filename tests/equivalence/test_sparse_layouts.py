# SPDX-License-Identifier: Apache-2.0
"""Stacks of several runs of blocks, dense and sparse, train on every mesh as on one device."""

from __future__ import annotations

LAYERS = {"num_encoder_layers": 3, "num_encoder_sparse_layers": 1, "num_decoder_layers": 2}
LAYOUT = {"encoder_sparse_layout": "middle", "decoder_sparse_layout": "top"}


def test_losses_and_gradients_of_stacks_of_several_runs_are_those_of_one_device(
  train, assert_same_step
):
  assert_same_step(train((2, 2, 2), **LAYERS, **LAYOUT), train(**LAYERS, **LAYOUT))
