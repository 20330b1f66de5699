# SPDX-License-Identifier: Apache-2.0
"""Model configurations: what is refused and how it is said, and which layers are sparse."""

from __future__ import annotations

import dataclasses
import re

import pytest

from switch_t5.errors import ConfigError, MeshError
from switch_t5.model.config import ModelConfig
from switch_t5.sharding.mesh import MeshShape

SWITCH = ModelConfig(
  vocab_size=1000,
  d_model=24,
  d_ff=48,
  d_kv=8,
  num_heads=6,
  num_encoder_layers=4,
  num_decoder_layers=4,
  num_experts=8,
  num_encoder_sparse_layers=2,
  num_decoder_sparse_layers=2,
  sequences_per_group=2,
)


def change(**changes) -> ModelConfig:
  return dataclasses.replace(SWITCH, **changes)


@pytest.mark.parametrize(
  ("name", "value"),
  [
    ("vocab_size", 0),
    ("d_model", -1),
    ("d_ff", 2.5),
    ("num_heads", True),
    ("num_encoder_layers", "6"),
    ("min_expert_capacity", 0),
    ("scan_unroll", 0),
    ("sequences_per_group", 0),
    ("decoder_sequences_per_group", 1.0),
    ("num_experts", -1),
    ("num_experts", 8.0),
    ("num_encoder_sparse_layers", 3),
    ("num_decoder_sparse_layers", 5),
    ("num_decoder_sparse_layers", -1),
    ("num_encoder_sparse_layers", 2.0),
    ("encoder_sparse_layout", "even"),
    ("decoder_sparse_layout", None),
    ("dropout_rate", 1.0),
    ("expert_dropout_rate", -0.1),
    ("dropout_rate", "0.1"),
    ("train_capacity_factor", 0.0),
    ("eval_capacity_factor", float("inf")),
    ("init_scale", -1.0),
    ("activation_dtype", "float16"),
    ("remat", "some"),
  ],
)
def test_a_refusal_names_the_parameter_its_value_and_the_rule(name, value):
  with pytest.raises(ConfigError) as error:
    change(**{name: value})
  assert name in error.value.what
  assert str(value) in str(error.value.value)
  assert name in error.value.rule


@pytest.mark.parametrize(
  "changes",
  [
    {"num_experts": 0},
    {"num_encoder_sparse_layers": 0, "num_decoder_sparse_layers": 0},
    {"group_size": 4096},
    {"sequences_per_group": None},
  ],
)
def test_what_belongs_together_is_refused_alone(changes):
  with pytest.raises(ConfigError) as error:
    change(**changes)
  assert error.value.value and error.value.rule


def stack_of(layout: str, layers: int, sparse: int) -> ModelConfig:
  """Both stacks alike."""
  return change(
    num_encoder_layers=layers,
    num_encoder_sparse_layers=sparse,
    encoder_sparse_layout=layout,
    num_decoder_layers=layers,
    num_decoder_sparse_layers=sparse,
    decoder_sparse_layout=layout,
    num_experts=8 if sparse else 0,
  )


@pytest.mark.parametrize(
  ("layout", "layers", "sparse", "expected"),
  [
    ("mixed", 12, 6, [1, 3, 5, 7, 9, 11]),
    ("mixed", 12, 4, [2, 5, 8, 11]),
    ("mixed", 12, 1, [11]),
    ("mixed", 3, 3, [0, 1, 2]),
    ("mixed", 2, 0, []),
    ("all", 3, 3, [0, 1, 2]),
    ("bottom", 6, 2, [0, 1]),
    ("bottom", 5, 0, []),
    ("top", 6, 4, [2, 3, 4, 5]),
    ("top", 1, 1, [0]),
    ("middle", 6, 2, [2, 3]),
    ("middle", 6, 3, [2, 3, 4]),
    ("middle", 2, 1, [1]),
    ("middle", 4, 0, []),
  ],
)
def test_a_layout_says_which_layers_of_either_stack_are_sparse(layout, layers, sparse, expected):
  config = stack_of(layout, layers, sparse)
  for stack in ("encoder", "decoder"):
    is_sparse = [kind for block, repeats in config.stack_layout(stack) for kind in block * repeats]
    assert len(is_sparse) == layers
    assert [i for i, kind in enumerate(is_sparse) if kind] == expected


@pytest.mark.parametrize(
  ("layout", "sparse", "runs"),
  [
    ("mixed", 2, [((False, False, True), 2)]),
    ("mixed", 6, [((True,), 6)]),
    ("all", 6, [((True,), 6)]),
    ("bottom", 2, [((True,), 2), ((False,), 4)]),
    ("top", 2, [((False,), 4), ((True,), 2)]),
    ("middle", 2, [((False,), 2), ((True,), 2), ((False,), 2)]),
    ("middle", 5, [((False,), 1), ((True,), 5)]),
    *((layout, 6, [((True,), 6)]) for layout in ("bottom", "top", "middle")),
    *((layout, 0, [((False,), 6)]) for layout in ("mixed", "bottom", "top", "middle")),
  ],
)
def test_a_stack_has_no_more_runs_than_kinds_of_blocks_follow_each_other(layout, sparse, runs):
  assert list(stack_of(layout, 6, sparse).stack_layout("decoder")) == runs


@pytest.mark.parametrize(
  ("layout", "sparse", "rule"),
  [
    ("mixed", 4, "0 or a divisor of num_decoder_layers (6)"),
    ("all", 3, "equal to num_decoder_layers (6)"),
    ("all", 0, "equal to num_decoder_layers (6)"),
    ("bottom", 7, "at most num_decoder_layers (6)"),
    ("top", 7, "at most num_decoder_layers (6)"),
    ("middle", 7, "at most num_decoder_layers (6)"),
  ],
)
def test_a_number_of_sparse_layers_that_a_layout_cannot_have_is_refused(layout, sparse, rule):
  of_decoder = {"num_decoder_layers": 6, "num_decoder_sparse_layers": sparse}
  with pytest.raises(ConfigError, match="num_decoder_sparse_layers") as error:
    change(**of_decoder, decoder_sparse_layout=layout)
  assert error.value.value == sparse
  assert rule in error.value.rule
  assert f"decoder_sparse_layout is '{layout}'" in error.value.rule


def test_an_unknown_layout_is_refused_with_the_names_and_that_of_t5x_with_ours():
  with pytest.raises(ConfigError, match="encoder_sparse_layout") as error:
    change(encoder_sparse_layout="even")
  assert "mixed, all, bottom, top, middle" in error.value.rule
  assert error.value.remedy is None
  with pytest.raises(ConfigError, match="decoder_sparse_layout") as error:
    change(decoder_sparse_layout="MIXED")
  assert error.value.remedy == "decoder_sparse_layout = 'mixed'"


@pytest.mark.parametrize(("size", "padded"), [(1, 128), (128, 128), (129, 256), (32100, 32128)])
def test_the_vocabulary_is_padded_to_a_multiple_of_128(size, padded):
  assert change(vocab_size=size).padded_vocab_size == padded


def test_a_group_size_in_tokens_becomes_whole_sequences_once():
  config = change(sequences_per_group=None, group_size=2000).with_lengths(encoder_length=512)
  assert (config.sequences_per_group, config.group_size) == (3, None)
  assert config.with_lengths(64) is config
  assert config.group_sequences("encoder") == config.group_sequences("decoder") == 3
  wider = dataclasses.replace(config, decoder_sequences_per_group=12)
  assert (wider.group_sequences("encoder"), wider.group_sequences("decoder")) == (3, 12)


def test_a_group_smaller_than_a_sequence_is_refused():
  with pytest.raises(ConfigError, match="100 tokens, encoder length 512"):
    change(sequences_per_group=None, group_size=100).with_lengths(512)


@pytest.mark.parametrize(
  ("changes", "mesh", "what"),
  [
    ({}, (1, 1, 4), "num_heads"),
    ({}, (1, 3, 1), "num_experts"),
    ({"d_ff": 50}, (1, 1, 6), "d_ff"),
    ({"d_model": 25}, (1, 1, 6), "d_model"),
    ({"num_heads": 7, "d_model": 28, "d_ff": 49}, (1, 1, 7), "vocabulary"),
  ],
)
def test_a_model_that_does_not_divide_is_refused_with_axes_that_fit(changes, mesh, what):
  with pytest.raises(MeshError) as error:
    change(**changes).check_mesh(MeshShape(*mesh), batch_size=24, num_microbatches=1)
  assert what in error.value.what
  assert any(str(devices) in error.value.value for devices in mesh)
  axis, suggested = re.match(r"(\w+) of ([\d, ]+) in MESH_SHAPE", error.value.remedy).groups()
  for devices in map(int, suggested.split(", ")):  # fits every dimension, not the named one alone
    shape = MeshShape()._replace(**{axis: devices})
    change(**changes).check_mesh(shape, batch_size=48, num_microbatches=1)


def test_the_decoders_groups_are_checked_too():
  config = change(decoder_sequences_per_group=8)
  config.check_mesh(MeshShape(2, 1, 1), batch_size=32, num_microbatches=2)
  with pytest.raises(MeshError, match="decoder"):
    config.check_mesh(MeshShape(2, 1, 1), batch_size=16, num_microbatches=2)


def test_a_dense_model_has_no_groups_but_its_batch_must_divide():
  dense = change(num_experts=0, num_encoder_sparse_layers=0, num_decoder_sparse_layers=0)
  dense.check_mesh(MeshShape(2, 4, 1), batch_size=16, num_microbatches=2)
  with pytest.raises(MeshError, match="BATCH_SIZE 12"):
    dense.check_mesh(MeshShape(2, 4, 1), batch_size=12, num_microbatches=1)
