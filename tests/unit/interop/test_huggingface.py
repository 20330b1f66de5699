# SPDX-License-Identifier: Apache-2.0
"""Hugging Face's folders without its library: both ways bit for bit, lies and what cannot be said.

That the arrays mean the same there is shown by the logits, in `tests/interop`.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from stored import ignore

from switch_t5.data.vocabulary import embedded_vocabulary_path
from switch_t5.errors import CheckpointError, DataError
from switch_t5.interop.checkpoint import StoredArray, StoredCheckpoint
from switch_t5.interop.huggingface import open_huggingface, write_huggingface
from switch_t5.interop.model_shape import expected_shapes
from switch_t5.interop.safetensors_files import ONE_FILE, write_files
from switch_t5.model.config import ModelConfig

T5_1_0 = {
  **{"vocab_size": 60, "d_model": 8, "d_ff": 16, "d_kv": 3, "num_heads": 2},
  **{"num_encoder_layers": 4, "num_decoder_layers": 2},
}
T5_1_1 = T5_1_0 | {"mlp_activations": ("gelu", "linear"), "logits_via_embedding": False}
SWITCH = T5_1_0 | {
  **{"num_experts": 3, "num_encoder_sparse_layers": 2, "num_decoder_sparse_layers": 1},
  "sequences_per_group": 1,
}
ALL_SPARSE = SWITCH | {
  **{"num_encoder_sparse_layers": 4, "num_decoder_sparse_layers": 2},
  "logits_via_embedding": False,
}
MODELS = {"T5 1.0": T5_1_0, "T5 1.1": T5_1_1, "Switch": SWITCH, "untied, all sparse": ALL_SPARSE}


def make_checkpoint(folder, dtype=np.float32, **sizes) -> StoredCheckpoint:
  rng = np.random.default_rng(0)
  arrays = {}
  for name, shape in expected_shapes(ModelConfig(**sizes)).items():
    array = rng.normal(size=shape).astype(dtype)
    arrays[f"target/{name}"] = StoredArray(shape, array.dtype, lambda array=array: array)
  step = np.asarray(3, np.int32)
  arrays["state/step"] = StoredArray((), step.dtype, lambda: step)
  return StoredCheckpoint(folder, "made up", arrays)


@pytest.fixture
def written(tmp_path) -> Callable:
  """Writes a model's folder: `written(**sizes)`."""

  def write(**sizes):
    write_huggingface(make_checkpoint(tmp_path, **sizes), tmp_path, ignore)
    return tmp_path

  return write


def change_config(folder, **changes) -> None:
  config = json.loads((folder / "config.json").read_text())
  config = {name: value for name, value in (config | changes).items() if value != "absent"}
  (folder / "config.json").write_text(json.dumps(config))


def change_arrays(folder, change) -> None:
  arrays = safetensors.numpy.load_file(folder / ONE_FILE)
  change(arrays)
  safetensors.numpy.save_file(arrays, folder / ONE_FILE)


@pytest.mark.smoke
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("sizes", MODELS.values(), ids=MODELS)
def test_a_model_comes_back_bit_for_bit(tmp_path, sizes, dtype):
  checkpoint = make_checkpoint(tmp_path, dtype, **sizes)
  told = []
  write_huggingface(checkpoint, tmp_path, lambda *of: told.append(of))
  found = open_huggingface(tmp_path)
  wanted = {f"target/{name}": array for name, array in checkpoint.parameters().items()}
  assert found.arrays.keys() == wanted.keys() and found.step == 0
  for name, array in wanted.items():
    assert (found.arrays[name].shape, found.arrays[name].dtype) == (array.shape, array.dtype)
    np.testing.assert_array_equal(found.arrays[name].read(), array.read(), err_msg=name)
  stored = safetensors.numpy.load_file(tmp_path / ONE_FILE)
  assert sorted(told) == sorted((name, array.nbytes) for name, array in stored.items())
  config = json.loads((tmp_path / "config.json").read_text())
  assert config["dtype"] == np.dtype(dtype).name


def test_kernels_are_transposed_and_experts_apart(written):
  stored = safetensors.numpy.load_file(written(**SWITCH) / ONE_FILE)
  arrays = make_checkpoint("", **SWITCH).parameters()
  experts = arrays["encoder/layers_1/mlp/expert/wi/kernel"].read()
  for i in range(3):
    name = f"encoder.block.1.layer.1.mlp.experts.expert_{i}.wi.weight"
    np.testing.assert_array_equal(stored[name], experts[i].T)
  bias = arrays["decoder/relpos_bias/rel_embedding"].read()
  name = "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
  np.testing.assert_array_equal(stored[name], bias.T)
  assert "lm_head.weight" not in stored


def test_experts_are_read_once_for_all(tmp_path):
  checkpoint = make_checkpoint(tmp_path, **ALL_SPARSE)
  reads = []

  def counted(name, array):
    return StoredArray(array.shape, array.dtype, lambda: (reads.append(name), array.read())[1])

  arrays = {name: counted(name, array) for name, array in checkpoint.arrays.items()}
  write_huggingface(StoredCheckpoint(tmp_path, "", arrays), tmp_path, ignore)
  assert max(reads.count(name) for name in reads if "/expert/" in name) == 1


def test_shards_are_read_as_one_file(written):
  folder = written(**SWITCH)
  whole = {name: array.read() for name, array in open_huggingface(folder).arrays.items()}
  arrays = safetensors.numpy.load_file(folder / ONE_FILE)
  (folder / ONE_FILE).unlink()
  stored = {n: StoredArray(a.shape, a.dtype, lambda a=a: a) for n, a in arrays.items()}
  write_files(stored, folder, ignore, max_shard_bytes=2000)
  assert len(list(folder.glob("model-*.safetensors"))) > 3
  for name, array in open_huggingface(folder).arrays.items():
    np.testing.assert_array_equal(array.read(), whole[name], err_msg=name)


LIES = [
  ("T5 1.0", {"vocab_size": 61}, "vocab_size: 61, and the arrays have 60"),
  ("T5 1.0", {"d_model": 16}, "d_model: 16, and the arrays have 8"),
  ("T5 1.0", {"d_model": 8.0}, "d_model: 8.0"),
  ("T5 1.0", {"d_kv": 6, "num_heads": 1}, "d_kv: 6, .* num_heads: 1"),
  ("T5 1.0", {"d_ff": 10**12}, "d_ff: 1000000000000"),
  ("T5 1.0", {"num_layers": 10**12}, "num_layers: 1000000000000"),
  ("T5 1.0", {"num_decoder_layers": 4}, "num_decoder_layers: 4, and the arrays have 2"),
  # As many as the encoder has, where it is left out.
  ("T5 1.0", {"num_decoder_layers": "absent"}, "num_decoder_layers: 4, and the arrays have 2"),
  ("T5 1.0", {"num_heads": "absent"}, "num_heads: 8, and the arrays have 2"),
  ("T5 1.0", {"tie_word_embeddings": False}, "tie_word_embeddings: False, and the arrays"),
  ("T5 1.0", {"scale_decoder_outputs": False}, "tie_word_embeddings: False, and the arrays"),
  ("T5 1.0", {"feed_forward_proj": "gated-gelu"}, "feed_forward_proj: .*gelu.* have .*relu"),
  ("T5 1.1", {"feed_forward_proj": "absent"}, "feed_forward_proj: .*relu.* have .*gelu"),
  ("T5 1.0", {"feed_forward_proj": "gated-silu"}, "feed_forward_proj 'gated-silu'"),
  ("T5 1.0", {"feed_forward_proj": ["relu"]}, r"feed_forward_proj \['relu'\]"),
  ("T5 1.1", {"dense_act_fn": "gelu"}, "dense_act_fn 'gelu'"),
  ("T5 1.0", {"is_gated_act": True}, "is_gated_act True"),
  ("T5 1.0", {"relative_attention_num_buckets": 64}, "relative_attention_num_buckets 64"),
  ("T5 1.0", {"relative_attention_max_distance": 256}, "relative_attention_max_distance 256"),
  ("T5 1.0", {"layer_norm_epsilon": 1e-5}, "layer_norm_epsilon 1e-05"),
  ("T5 1.0", {"pad_token_id": 1}, "pad_token_id 1"),
  ("T5 1.0", {"decoder_start_token_id": 2}, "decoder_start_token_id 2"),
  ("T5 1.0", {"model_type": "mt5"}, "model_type 'mt5'"),
  ("T5 1.0", {"model_type": []}, r"model_type \[\]"),
  ("T5 1.0", {"model_type": "absent"}, "model_type None"),
  ("T5 1.0", {"model_type": "switch_transformers"}, "DenseReluDense.* nothing that switch_tr"),
  ("Switch", {"model_type": "t5"}, "mlp.* is nothing that t5 has"),
  ("Switch", {"num_experts": 4}, "num_experts: 4, and the arrays have 3"),
  ("Switch", {"num_sparse_encoder_layers": 4}, r"num_sparse_encoder_layers: \[0, 1, 2, 3\]"),
  ("Switch", {"num_sparse_encoder_layers": 9}, r"num_sparse_encoder_layers: \[\]"),
  ("Switch", {"num_sparse_encoder_layers": "2"}, "num_sparse_encoder_layers: 2, and"),
  ("Switch", {"encoder_sparse_step": 4}, r"num_sparse_encoder_layers: \[1\]"),
  ("Switch", {"decoder_sparse_step": 0}, r"num_sparse_decoder_layers: \[\]"),
  ("Switch", {"d_ff": 32}, "d_ff: 32, .* d_ff: 32"),
  ("Switch", {"dense_act_fn": "gelu"}, "dense_act_fn 'gelu'"),
  ("Switch", {"router_bias": True}, "router_bias True"),
  ("Switch", {"router_dtype": "bfloat16"}, "router_dtype 'bfloat16'"),
]


@pytest.mark.parametrize(("model", "changes", "message"), LIES)
def test_a_configuration_that_lies_or_asks_for_other_numerics_is_refused(
  written, model, changes, message
):
  folder = written(**MODELS[model])
  change_config(folder, **changes)
  with pytest.raises(CheckpointError, match=message):
    open_huggingface(folder)


HEAD, SHARED = "lm_head.weight", "shared.weight"
BIAS = "encoder.block.1.layer.1.mlp.router.classifier.bias"
EXPERT = "encoder.block.1.layer.1.mlp.experts.expert_{}.wi.weight"
ZERO = np.zeros((60, 8), np.float32)
WRONG_ARRAYS = [
  ("T5 1.0", {"extra.weight": ZERO}, "'extra.weight' is nothing that t5 has"),
  ("T5 1.0", {"encoder.block.01.layer.0.layer_norm.weight": ZERO}, "nothing that t5 has"),
  ("T5 1.0", {SHARED: None}, "there is no token_embedder/embedding"),
  ("T5 1.0", {"decoder.block.1.layer.1.EncDecAttention.k.weight": None}, "- decoder/layers_1/enc"),
  ("T5 1.0", {"decoder.final_layer_norm.weight": ZERO}, "~ decoder/decoder_norm/scale"),
  ("T5 1.0", {"encoder.final_layer_norm.weight": np.zeros(8, np.int32)}, "final.* is int32"),
  ("T5 1.0", {"encoder.block.0.layer.0.SelfAttention.q.weight": ZERO[0]}, "q.weight .* a matrix"),
  ("T5 1.0", {HEAD: ZERO[1:]}, r"lm_head.weight is float32\[59,8\]"),
  ("Switch", {BIAS: ZERO[0, :3]}, "classifier.bias\n.*routers have no bias"),
  ("Switch", {EXPERT.format(1): None}, "expert_1.wi.weight is missing"),
  ("Switch", {EXPERT.format(2): None}, "expert_2.wi.weight is missing"),
  ("Switch", {EXPERT.format(3): ZERO}, "expert_3.* is missing"),
  ("Switch", {EXPERT.format(999999): ZERO}, "expert_3.* is missing"),
  ("Switch", {EXPERT.format(0): ZERO}, r"experts of float32\[.*\] and float32\[.*all are alike"),
]


@pytest.mark.parametrize(("model", "changes", "message"), WRONG_ARRAYS)
def test_arrays_that_no_such_model_has_are_refused_by_name(written, model, changes, message):
  folder = written(**MODELS[model])

  def change(arrays):
    for name, array in changes.items():
      if array is None:
        del arrays[name]
      else:
        arrays[name] = np.ascontiguousarray(array)

  change_arrays(folder, change)
  with pytest.raises(CheckpointError, match=re.compile(message, re.DOTALL)):
    open_huggingface(folder)


ALIASES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", HEAD)


@pytest.mark.parametrize("alias", ALIASES)
def test_other_names_of_the_table_are_left_aside_if_they_hold_the_same(written, alias):
  folder = written(**T5_1_0)
  change_arrays(folder, lambda arrays: arrays.update({alias: arrays[SHARED].copy()}))
  found = open_huggingface(folder)
  assert not any("embed_tokens" in name or "logits" in name for name in found.arrays)
  assert found.arrays["target/token_embedder/embedding"].read().shape == (60, 8)

  def change(arrays):
    arrays[alias][59, 7] += 1

  change_arrays(folder, change)
  with pytest.raises(CheckpointError, match=rf"{alias} is not shared\.weight"):
    open_huggingface(folder).arrays["target/token_embedder/embedding"].read()


def test_what_transformers_5_says_of_an_untied_t5_is_understood(written):
  folder = written(**T5_1_1)
  change_config(folder, tie_word_embeddings=True, scale_decoder_outputs=False)
  assert "target/decoder/logits_dense/kernel" in open_huggingface(folder).arrays


def test_an_old_bias_of_cross_attention_is_left_aside_with_a_note(written):
  folder = written(**T5_1_0)
  name = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
  change_arrays(folder, lambda arrays: arrays.update({name: np.ones((32, 2), np.float32)}))
  (note,) = open_huggingface(folder).notes
  assert name in note


def test_code_beside_a_checkpoint_is_not_used(written):
  folder = written(**T5_1_0)
  change_config(folder, auto_map={"AutoModel": "modeling.Evil"})
  (folder / "modeling.py").write_text("raise SystemExit(9)")
  assert open_huggingface(folder).notes == ("The code that its auto_map names is not used.",)


@pytest.mark.parametrize(
  "file", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "flax_model.msgpack"]
)
def test_pickled_and_other_weights_are_refused_with_the_way_round(written, file):
  folder = written(**T5_1_0)
  (folder / ONE_FILE).rename(folder / file)
  with pytest.raises(CheckpointError, match=rf"{file}\n.*can run code\n.*safe_serialization=True"):
    open_huggingface(folder)


def test_a_folder_of_links_is_refused_with_the_way_round(written, tmp_path_factory):
  folder, blobs = written(**T5_1_0), tmp_path_factory.mktemp("blobs")
  for path in list(folder.iterdir()):
    shutil.move(path, blobs / path.name)
    path.symlink_to(blobs / path.name)
  with pytest.raises(CheckpointError, match="cp -rL"):
    open_huggingface(folder)


def test_a_bomb_of_a_configuration_is_refused(written):
  folder = written(**T5_1_0)
  (folder / "config.json").write_bytes(b'{"a":' + b"[" * (8 << 20))
  with pytest.raises(CheckpointError, match=r"config\.json: JSON of"):
    open_huggingface(folder)


GATED = SWITCH | {"mlp_activations": ("gelu", "linear")}
ENCODER_ONLY = SWITCH | {"num_decoder_sparse_layers": 0}
NARROW = SWITCH | {"expert_d_ff": 5}
TOP = SWITCH | {"encoder_sparse_layout": "top"}
EVERY_THIRD = SWITCH | {
  **{"num_encoder_layers": 6, "num_encoder_sparse_layers": 2},
  "num_decoder_sparse_layers": 1,
}


@pytest.mark.parametrize(
  ("sizes", "message"),
  [
    (GATED, "a gated activation"),
    (ENCODER_ONLY, r"decoder with the sparse layers \[\] of 2"),
    (TOP, r"encoder with the sparse layers \[2, 3\] of 4"),
    (EVERY_THIRD, r"encoder with the sparse layers \[2, 5\] of 6"),
    (NARROW, "experts of width 5, and dense layers of 16"),
  ],
)
def test_what_their_classes_cannot_hold_is_refused_before_anything_is_written(
  tmp_path, sizes, message
):
  with pytest.raises(CheckpointError, match=message):
    write_huggingface(make_checkpoint(tmp_path, **sizes), tmp_path, ignore)
  assert not list(tmp_path.iterdir())


def test_a_router_bias_is_refused(tmp_path):
  checkpoint = make_checkpoint(tmp_path, **SWITCH)
  bias = StoredArray((3,), np.dtype(np.float32), lambda: np.zeros(3, np.float32))
  arrays = {**checkpoint.arrays, "target/encoder/layers_1/mlp/router/router_weights/w/bias": bias}
  with pytest.raises(CheckpointError, match=r"\+ encoder/layers_1/.*/w/bias"):
    write_huggingface(StoredCheckpoint(tmp_path, "", arrays), tmp_path, ignore)


def test_a_tokenizer_travels_with_the_number_of_its_sentinels(tmp_path):
  checkpoint = make_checkpoint(tmp_path, **T5_1_0 | {"vocab_size": 8192})
  with open(embedded_vocabulary_path(), "rb") as file:
    model = file.read()
  source = tmp_path / "given.model"
  source.write_bytes(model)
  folder = tmp_path / "folder"
  folder.mkdir()
  write_huggingface(checkpoint, folder, ignore, tokenizer=source)
  assert (folder / "spiece.model").read_bytes() == model
  config = json.loads((folder / "tokenizer_config.json").read_text())
  assert (config["extra_ids"], config["pad_token"], config["eos_token"]) == (100, "<pad>", "</s>")
  assert open_huggingface(folder).tokenizer == folder / "spiece.model"


def test_a_vocabulary_that_the_table_has_no_rows_for_is_refused(tmp_path):
  checkpoint = make_checkpoint(tmp_path, **T5_1_0)
  with pytest.raises(CheckpointError, match="8000 pieces and 100 sentinels, 60 rows"):
    write_huggingface(checkpoint, tmp_path, ignore, tokenizer=embedded_vocabulary_path())
  source = tmp_path / "none.model"
  source.write_bytes(b"no model")
  with pytest.raises(DataError, match="not a SentencePiece model"):
    write_huggingface(checkpoint, tmp_path, ignore, tokenizer=source)
  assert [path.name for path in tmp_path.iterdir()] == ["none.model"]


def test_the_capacity_is_one_that_no_sequence_reaches(written):
  config = json.loads((written(**SWITCH) / "config.json").read_text())
  assert config["expert_capacity"] > 100_000 and math.log2(config["expert_capacity"]) < 31
