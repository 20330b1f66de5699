# SPDX-License-Identifier: Apache-2.0
"""Norms by layer, of blocks that are stacked over their repeats."""

from __future__ import annotations

import numpy as np

from switch_t5.training.norms import describe_norms, layer_norms


def test_layers_are_told_apart_in_the_order_of_the_stack():
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
  layers = {f"layers_{j}": {"mlp": draw(3, 4, 5), "norm": draw(3, 4)} for j in range(2)}
  tree = {
    "encoder": {"blocks": layers, "encoder_norm": {"scale": draw(4)}},
    "token_embedder": {"embedding": draw(7, 4)},
  }
  norms = layer_norms(tree)
  assert set(norms) == {"encoder", "encoder/encoder_norm", "token_embedder/embedding"}
  for repeat in range(3):
    for j in range(2):
      leaves = [leaf[repeat].ravel() for leaf in layers[f"layers_{j}"].values()]
      expected = np.linalg.norm(np.concatenate(leaves))
      np.testing.assert_allclose(norms["encoder"][2 * repeat + j], expected, rtol=1e-6)
  embedding = tree["token_embedder"]["embedding"]
  expected = np.linalg.norm(embedding)
  np.testing.assert_allclose(norms["token_embedder/embedding"], expected, rtol=1e-6)


def test_ten_layers_of_a_block_keep_their_order():
  tree = {"decoder": {"blocks": {f"layers_{j}": {"w": np.full((1, 1), j)} for j in range(12)}}}
  np.testing.assert_allclose(layer_norms(tree)["decoder"], np.arange(12))


def test_layers_of_several_runs_follow_each_other():
  of = lambda *norms: {"w": np.float32(norms)[:, None]}  # noqa: E731
  runs = {
    "blocks_2": {"layers_0": of(6)},
    "blocks_1": {"layers_0": of(2, 4), "layers_1": of(3, 5)},
    "blocks": {"layers_0": of(0, 1)},
  }
  tree = {"encoder": runs, "decoder": {"blocks": {"layers_0": of(7)}}}
  norms = layer_norms(tree)
  np.testing.assert_allclose(norms["encoder"], np.arange(7))
  np.testing.assert_allclose(norms["decoder"], [7])


def test_norms_are_shown_a_line_for_each_part():
  text = describe_norms({"encoder": np.float32([1.5, np.nan]), "decoder": np.float32([2.0])})
  assert text.split() == ["decoder", "2", "encoder", "1.5", "nan"]
