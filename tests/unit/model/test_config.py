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
    ("dropout_rate", 1.0),
    ("expert_dropout_rate", -0.1),
    ("jitter_noise", float("nan")),
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


def sparse_layers(config: ModelConfig, stack: str) -> list[int]:
  pattern, repeats = config.block_layout(stack)
  return [i for i, sparse in enumerate(pattern * repeats) if sparse]


@pytest.mark.parametrize(
  ("layers", "sparse", "expected"),
  [
    (12, 6, [1, 3, 5, 7, 9, 11]),
    (12, 4, [2, 5, 8, 11]),
    (12, 1, [11]),
    (3, 3, [0, 1, 2]),
    (2, 0, []),
  ],
)
def test_sparse_layers_end_their_block_in_encoder_and_decoder(layers, sparse, expected):
  config = change(
    num_encoder_layers=layers,
    num_encoder_sparse_layers=sparse,
    num_decoder_layers=layers,
    num_decoder_sparse_layers=sparse,
    num_experts=8 if sparse else 0,
  )
  for stack in ("encoder", "decoder"):
    assert sparse_layers(config, stack) == expected
    pattern, repeats = config.block_layout(stack)
    assert len(pattern) * repeats == layers


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
