# SPDX-License-Identifier: Apache-2.0
"""The table of names is one-to-one in every direction, and covers every model."""

from __future__ import annotations

import jax
import pytest
import stored

from switch_t5.interop import names
from switch_t5.interop.model_shape import blocks_and_repeats, expected_shapes
from switch_t5.model.definition import define_model

MODELS = {
  "dense": stored.dense(),
  "gated": stored.gated(),
  "switch": stored.switch(),
  "all sparse, not tied": stored.switch(
    num_encoder_sparse_layers=4, num_decoder_sparse_layers=2, logits_via_embedding=False
  ),
  "several runs": stored.switch(
    encoder_sparse_layout="middle", decoder_sparse_layout="top", expert_d_ff=8
  ),
  "gated experts": stored.switch(mlp_activations=("gelu", "linear")),
}


@pytest.mark.smoke
def test_a_row_has_one_name_in_each_system():
  t5x = [row.t5x for row in names.TABLE]
  huggingface = [row.huggingface for row in names.TABLE if row.huggingface]
  assert len(set(t5x)) == len(t5x)
  assert len(set(huggingface)) == len(huggingface)


@pytest.mark.parametrize("row", names.TABLE, ids=lambda row: row.t5x)
def test_a_name_is_found_again_with_its_numbers(row):
  found = names.Found(row, 13 if "{layer}" in row.t5x else None)
  assert names.find_t5x(found.t5x) == found
  for model_type in (names.SWITCH, names.T5):
    name = found.huggingface(model_type, 27)
    if name:
      expert = 27 if "{expert}" in row.huggingface else None
      assert names.find_huggingface(name, model_type) == names.Found(row, found.layer, expert)


@pytest.mark.parametrize(
  "name",
  [
    "encoder/layers_01/mlp/wi/kernel",
    "encoder/layers_-1/mlp/wi/kernel",
    "encoder/layers_٣/mlp/wi/kernel",
    "encoder/layers_1/mlp/wi/kernel/",
    "encoder/layers_{layer}/mlp/wi/kernel",
    "encoder/layers_9999999/mlp/wi/kernel",
    "encoder/layers_1/mlp/roer/router_weights/w/kernel",
    "",
  ],
)
def test_what_only_looks_like_a_name_is_none(name):
  assert names.find_t5x(name) is None


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_t5xs_names_and_ours_are_one_to_one_on_every_model(model):
  definition = define_model(model)
  leaves = jax.tree_util.tree_leaves_with_path(definition.shapes)
  ours = {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves
  }
  covered: dict[str, list[int | None]] = {}
  for name, shape in expected_shapes(model).items():
    layout = blocks_and_repeats(model, name.split("/")[0]) if "layers_" in name else ()
    own, index = names.stacked(name, layout)
    assert names.unstacked(own, layout)[index or 0] == name
    covered.setdefault(own, []).append(index)
    assert shape == (ours[own] if index is None else ours[own][1:]), name
  assert covered.keys() == ours.keys()
  for own, indices in covered.items():
    assert indices == [None] or sorted(indices) == list(range(ours[own][0])), own
