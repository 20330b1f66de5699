# SPDX-License-Identifier: Apache-2.0
"""The parameters of a tiny Switch model: paths, shapes, dtypes and logical axes, as committed.

Names are Flaxformer's, stacked over blocks. After an intended change, write the snapshot anew:
  python tests/unit/model/test_definition.py
"""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np

from switch_t5.model.config import ModelConfig
from switch_t5.model.definition import ModelDefinition, define_model
from switch_t5.sharding.rules import RULES, partition_spec

SNAPSHOT = Path(__file__).with_name("tiny_switch_parameters.json")
TINY_SWITCH = ModelConfig(
  vocab_size=100,
  d_model=16,
  d_ff=32,
  d_kv=4,
  num_heads=2,
  num_encoder_layers=4,
  num_decoder_layers=2,
  num_experts=3,
  num_encoder_sparse_layers=2,
  num_decoder_sparse_layers=1,
  sequences_per_group=1,
)


def describe(definition: ModelDefinition) -> dict[str, list]:
  """Returns [shape, dtype, axes] by path."""
  leaves = jax.tree_util.tree_leaves_with_path(definition.shapes)
  axes = jax.tree.structure(definition.shapes).flatten_up_to(definition.axes)
  return {
    "/".join(key.key for key in path): [list(leaf.shape), str(leaf.dtype), list(names)]
    for (path, leaf), names in zip(leaves, axes, strict=True)
  }


def test_parameters_are_those_of_the_snapshot():
  assert describe(define_model(TINY_SWITCH)) == json.loads(SNAPSHOT.read_text())


def test_every_dimension_has_a_known_axis_or_none_by_intent():
  for path, (shape, _, names) in describe(define_model(TINY_SWITCH)).items():
    assert len(names) == len(shape), path
    assert set(names) <= set(RULES), path
    partition_spec(tuple(names))


def test_parameters_of_a_definition_are_those_of_the_model():
  definition = define_model(TINY_SWITCH)
  shapes = jax.eval_shape(definition.init, jax.random.key(0))
  assert jax.tree.structure(shapes) == jax.tree.structure(definition.shapes)
  same = jax.tree.map(
    lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), shapes, definition.shapes
  )
  assert all(jax.tree.leaves(same))


def test_build_puts_each_value_in_its_place():
  definition = define_model(TINY_SWITCH)
  numbered = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), definition.shapes)
  wo = numbered["decoder"]["blocks"]["layers_1"]["mlp"]["expert"]["wo"]
  wo["kernel"] = wo["kernel"] + 7
  model = definition.build(numbered)
  assert (model.decoder.blocks.layers_1.mlp.expert.wo.kernel[...] == 7).all()
  assert not model.decoder.blocks.layers_1.mlp.expert.wi.kernel[...].any()
  assert not model.encoder.blocks.layers_1.mlp.expert.wo.kernel[...].any()


if __name__ == "__main__":
  lines = [
    f"{json.dumps(k)}: {json.dumps(v)}" for k, v in describe(define_model(TINY_SWITCH)).items()
  ]
  SNAPSHOT.write_text("{\n  " + ",\n  ".join(lines) + "\n}\n")
