# SPDX-License-Identifier: Apache-2.0
"""Which model a checkpoint holds follows from its arrays; what is not a model is refused by name."""

from __future__ import annotations

import dataclasses
import time

import pytest
import stored

from switch_t5.errors import CheckpointError
from switch_t5.interop.model_shape import deduce_model, expected_shapes, sparse_layers

MODELS = [
  stored.dense(),
  stored.dense(num_decoder_layers=5, d_kv=3, logits_via_embedding=False),
  stored.gated(),
  stored.switch(),
  stored.switch(num_encoder_sparse_layers=4, num_decoder_sparse_layers=2),
  stored.switch(num_decoder_sparse_layers=0, mlp_activations=("gelu", "linear")),
  stored.switch(encoder_sparse_layout="bottom", expert_d_ff=8),
  stored.switch(encoder_sparse_layout="middle", decoder_sparse_layout="bottom"),
  stored.switch(num_encoder_sparse_layers=3, encoder_sparse_layout="top"),
]


@pytest.mark.parametrize(
  "model", MODELS, ids=lambda m: f"{m.num_experts} {m.encoder_sparse_layout}"
)
def test_a_model_is_known_from_the_shapes_of_its_arrays(model):
  shapes = expected_shapes(model)
  deduced = deduce_model(shapes, "here")
  assert expected_shapes(deduced) == shapes
  for stack in ("encoder", "decoder"):
    assert sparse_layers(deduced, stack) == sparse_layers(model, stack)
  same = {"encoder_sparse_layout": "", "decoder_sparse_layout": "", "init_scale": 1.0}
  assert dataclasses.replace(deduced, **{n: getattr(model, n) for n in same}) == model


def changed(change):
  shapes = expected_shapes(stored.switch())
  change(shapes)
  return shapes


LIES = {
  "a parameter is missing": (
    lambda s: s.pop("decoder/layers_1/mlp/expert/wo/kernel"),
    "- decoder/layers_1/mlp/expert/wo/kernel",
  ),
  "an unknown one": (
    lambda s: s.update({"encoder/layers_0/adapter/kernel": (1, 1)}),
    "+ encoder/layers_0/adapter/kernel",
  ),
  "a router bias": (
    lambda s: s.update({"encoder/layers_1/mlp/router/router_weights/w/bias": (4,)}),
    "+ encoder/layers_1/mlp/router/router_weights/w/bias",
  ),
  "another shape": (
    lambda s: s.update({"encoder/layers_3/attention/out/kernel": (16, 17)}),
    "~ encoder/layers_3/attention/out/kernel  [16, 17], expected [16, 16]",
  ),
  "more axes": (lambda s: s.update({"token_embedder/embedding": (1, 2, 3)}), "2 axes"),
  "no axes": (lambda s: s.update({"encoder/layers_0/mlp/wo/kernel": ()}), "mlp/wo/kernel"),
  "experts without their axis": (
    lambda s: s.update({"encoder/layers_1/mlp/expert/wo/kernel": (8, 8)}),
    "expert",
  ),
  "a gap": (lambda s: s.update({"encoder/layers_9/x/kernel": (1,)}), "numbered up to 9"),
  "layers without end": (lambda s: s.update({"encoder/layers_999999/x": (1,)}), "999999"),
  "heads that do not divide": (
    lambda s: s.update({"encoder/relpos_bias/rel_embedding": (3, 32)}),
    "3 heads",
  ),
  "other buckets": (
    lambda s: s.update({"encoder/relpos_bias/rel_embedding": (4, 64)}),
    "64 buckets",
  ),
  "nothing at all": (lambda s: s.clear(), "token_embedder/embedding"),
}


@pytest.mark.parametrize("change, named", LIES.values(), ids=LIES)
def test_what_is_no_model_is_refused_by_name_at_once(change, named):
  shapes = changed(change)
  started = time.monotonic()
  with pytest.raises(CheckpointError) as error:
    deduce_model(shapes, "here")
  assert named in str(error.value)
  assert "value:  here" in str(error.value)
  assert time.monotonic() - started < 1


def test_sparse_layers_in_places_no_layout_has_are_refused():
  swapped = str.maketrans("0123", "1032")  # 1 and 3 become 0 and 2
  shapes = {
    name.translate(swapped)
    if name.startswith("encoder/layers_") and "/mlp/" in name
    else name: shape
    for name, shape in expected_shapes(stored.switch()).items()
  }
  with pytest.raises(CheckpointError, match="sparse layers of the encoder are 0, 2 of 4") as error:
    deduce_model(shapes, "here")
  assert "mixed" in str(error.value)
