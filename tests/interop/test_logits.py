# SPDX-License-Identifier: Apache-2.0
"""The same logits as Hugging Face's PyTorch models, both ways.

Transformers 5.0 to 5.15 route wrongly: their mask of the capacity drops nothing. Up to 5.10 the relative
positions reach the first layer only. Until 4.50 a token that is dropped comes out as itself, not as
nothing. So the extra `interop` asks for 5.20 or later, and theirs get a capacity that is not reached.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator

import jax
import ml_dtypes
import numpy as np
import pytest
import sentencepiece
import torch
import transformers
from batches import teacher_forced
from stored import ignore
from their_models import MODELS, VOCAB, make_theirs

from switch_t5.data.vocabulary import Vocabulary, embedded_vocabulary_path
from switch_t5.interop.checkpoint import StoredArray, StoredCheckpoint
from switch_t5.interop.huggingface import open_huggingface, write_huggingface
from switch_t5.interop.model_shape import deduce_model, expected_shapes
from switch_t5.interop.own_names import load_params
from switch_t5.model.config import ModelConfig
from switch_t5.model.definition import define_model
from switch_t5.sharding.mesh import MeshShape, make_mesh
from switch_t5.types import HostBatch

pytestmark = pytest.mark.interop

# Longer than the 128 tokens from which on relative positions share a bucket.
BATCH_SIZE, ENCODER_LENGTH, DECODER_LENGTH = 3, 150, 140


def draw(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
  """Draws a parameter such that every kind of them matters for the logits."""
  values = rng.normal(size=shape)
  last = name.split("/")[-2:]
  if last[-1] == "scale":
    values = 1 + 0.3 * values
  elif last[-1] == "kernel":
    # Routers decide clearly: two libraries round differently, and a near tie would go two ways.
    values *= (3 if last[0] == "w" else 1) * shape[-2] ** -0.5
  return values.astype(np.float32)


def draw_checkpoint(config: ModelConfig, dtype=np.float32) -> StoredCheckpoint:
  rng = np.random.default_rng(0)
  arrays = {}
  for name, shape in expected_shapes(config).items():
    array = draw(name, shape, rng).astype(dtype)
    arrays[f"target/{name}"] = StoredArray(shape, array.dtype, lambda array=array: array)
  return StoredCheckpoint(pathlib.Path("drawn"), "drawn", arrays)


def make_batch() -> HostBatch:
  """Rows of unequal length, with padding after them."""
  rng = np.random.default_rng(1)
  batch = {}
  for stack, length in (("encoder", ENCODER_LENGTH), ("decoder", DECODER_LENGTH)):
    lengths = np.asarray([length, length // 2, length // 5])
    ids = (np.arange(length) < lengths[:, None]).astype(np.int32)
    batch[stack] = (rng.integers(2, VOCAB, ids.shape, dtype=np.int32) * ids, ids)
  return teacher_forced(batch["encoder"], batch["decoder"], batch["decoder"][1])


def model_of(checkpoint: StoredCheckpoint) -> ModelConfig:
  return deduce_model(checkpoint.parameter_shapes(), checkpoint.path)


def our_logits(checkpoint: StoredCheckpoint, batch: HostBatch) -> np.ndarray:
  """Returns the dropless logits of the tokens that are no padding, [tokens, V]."""
  config = dataclasses.replace(model_of(checkpoint), activation_dtype="float32")
  definition = define_model(config)
  params = load_params(checkpoint, definition)
  with jax.set_mesh(make_mesh(MeshShape())):
    run = jax.jit(lambda params: definition.build(params)(batch, capacity_factor=None).logits)
    logits = np.asarray(run(params))
  logits = logits.reshape(BATCH_SIZE, DECODER_LENGTH, -1)[..., : config.vocab_size]
  return logits[batch["decoder_segment_ids"] > 0]


def load_theirs(folder: pathlib.Path):
  """Returns their model in float32, as `from_pretrained` loads it, every name in its place."""
  model, report = transformers.AutoModelForSeq2SeqLM.from_pretrained(
    folder, dtype=torch.float32, output_loading_info=True
  )
  assert not any(report.values()), report
  return model.eval()


@contextlib.contextmanager
def choices_of(model) -> Iterator[list[set[int]]]:
  """Lists which experts each Switch layer chooses."""
  chosen: list[set[int]] = []
  note = lambda _, __, logits: chosen.append(set(logits.argmax(-1).flatten().tolist()))  # noqa: E731
  hooks = [
    module.register_forward_hook(note)
    for name, module in model.named_modules()
    if name.endswith("router.classifier")
  ]
  yield chosen
  for hook in hooks:
    hook.remove()


def their_logits(model, batch: HostBatch) -> np.ndarray:
  """Returns the logits of the tokens that are no padding, [tokens, V]."""
  as_tensor = lambda name: torch.from_numpy(batch[name]).long()  # noqa: E731
  with torch.no_grad():
    logits = model(
      input_ids=as_tensor("encoder_input_tokens"),
      attention_mask=as_tensor("encoder_segment_ids"),
      decoder_input_ids=as_tensor("decoder_input_tokens"),
      decoder_attention_mask=as_tensor("decoder_segment_ids"),
    ).logits.numpy()
  return logits[batch["decoder_segment_ids"] > 0]


def assert_close(found: np.ndarray, wanted: np.ndarray) -> None:
  assert found.shape == wanted.shape
  scale = np.sqrt(np.mean(np.square(wanted)))
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * scale)


@pytest.fixture(scope="module")
def batch() -> HostBatch:
  return make_batch()


@pytest.fixture
def export(tmp_path) -> Callable[[StoredCheckpoint], pathlib.Path]:
  def export(checkpoint):
    write_huggingface(checkpoint, tmp_path, ignore)
    return tmp_path

  return export


@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
def test_an_exported_model_has_our_logits_there(export, batch, config):
  checkpoint = draw_checkpoint(config)
  theirs = load_theirs(export(checkpoint))
  assert ("Switch" in type(theirs).__name__) == (config.num_experts > 0)
  with choices_of(theirs) as chosen:
    wanted = their_logits(theirs, batch)
  sparse = config.num_encoder_sparse_layers + config.num_decoder_sparse_layers
  assert len(chosen) == sparse and all(len(experts) >= 3 for experts in chosen)
  assert_close(our_logits(checkpoint, batch), wanted)


@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
def test_a_model_of_theirs_has_its_logits_here(tmp_path, batch, config):
  theirs = make_theirs(config)
  theirs.save_pretrained(tmp_path, max_shard_size="40KB")
  assert (tmp_path / "model.safetensors.index.json").exists()
  checkpoint = open_huggingface(tmp_path)
  found = model_of(checkpoint)
  changed = {name: getattr(config, name) for name in ("init_scale", "sequences_per_group")}
  assert dataclasses.replace(found, **changed) == config
  assert_close(our_logits(checkpoint, batch), their_logits(theirs, batch))


def test_an_export_in_bfloat16_has_our_logits_there(export, batch):
  """The arrays are half as large, and both compute with them in float32."""
  config = MODELS["Switch, 4 experts in every other layer"]
  checkpoint = draw_checkpoint(config, ml_dtypes.bfloat16)
  folder = export(checkpoint)
  auto = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, dtype="auto")
  assert auto.dtype == torch.bfloat16
  assert_close(our_logits(checkpoint, batch), their_logits(load_theirs(folder), batch))


def test_an_exported_model_generates_until_the_end_of_sequence(export):
  """config.json and generation_config.json say where generation begins, ends and what pads."""
  folder = export(draw_checkpoint(MODELS["T5 1.0"]))
  model = load_theirs(folder)
  defaults = model.generation_config
  ids = (defaults.decoder_start_token_id, defaults.eos_token_id, defaults.pad_token_id)
  assert ids == (0, 1, 0)
  generated = model.generate(torch.tensor([[5, 6, 7, 1]]), max_new_tokens=3)
  assert generated.shape[0] == 1 and generated[0, 0] == 0


def test_the_tokenizer_has_our_sentinels(tmp_path):
  path = embedded_vocabulary_path()
  ours = Vocabulary(path)
  config = dataclasses.replace(MODELS["T5 1.0"], vocab_size=8192)
  write_huggingface(draw_checkpoint(config), tmp_path, ignore, tokenizer=pathlib.Path(path))
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
  assert len(theirs) == ours.size
  sentinels = [f"<extra_id_{k}>" for k in range(ours.extra_ids)]
  assert theirs.convert_tokens_to_ids(sentinels) == [ours.sentinel_id(k) for k in range(100)]
  assert (theirs.pad_token_id, theirs.eos_token_id, theirs.unk_token_id) == (0, 1, 2)
  text = "the <extra_id_0> cat and dogs <extra_id_1>"
  assert theirs(text).input_ids == [*ours.encode(text), ours.eos_id]


def test_a_tokenizer_that_holds_its_sentinels_gets_none_added(tmp_path):
  """Some SentencePiece models have `<extra_id_0>` as a piece of their own."""
  text = tmp_path / "text"
  text.write_text("\n".join(f"the cat and {n} dogs sat on mat {n * n}" for n in range(500)))
  sentencepiece.SentencePieceTrainer.train(
    input=str(text),
    model_prefix=str(tmp_path / "own"),
    vocab_size=60,
    user_defined_symbols=["<extra_id_1>", "<extra_id_0>"],
    minloglevel=3,
    **{"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
  )
  folder = tmp_path / "folder"
  folder.mkdir()
  checkpoint = draw_checkpoint(MODELS["T5 1.0"])
  write_huggingface(checkpoint, folder, ignore, tokenizer=tmp_path / "own.model")
  assert json.loads((folder / "tokenizer_config.json").read_text())["extra_ids"] == 0
  theirs = transformers.AutoTokenizer.from_pretrained(folder)
  own = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "own.model"))
  wanted = [own.piece_to_id(f"<extra_id_{k}>") for k in range(2)]
  assert theirs.convert_tokens_to_ids(["<extra_id_0>", "<extra_id_1>"]) == wanted
  assert len(theirs) == 60
  ids = theirs("the <extra_id_0> cat").input_ids
  assert wanted[0] in ids
