# SPDX-License-Identifier: Apache-2.0
"""Checkpoints as T5X's state dict has them, of random numbers and in memory."""

from __future__ import annotations

import pathlib
import shutil

import ml_dtypes
import numpy as np

from benchmarks.adafactor_slots import UNUSED, adafactor_slots
from switch_t5.data.vocabulary import embedded_vocabulary_path
from switch_t5.interop.checkpoint import (
  PARAM_STATES,
  PARAMETERS,
  STEP,
  StoredArray,
  StoredCheckpoint,
)
from switch_t5.interop.convert import import_checkpoint
from switch_t5.interop.huggingface import TOKENIZER
from switch_t5.interop.model_shape import expected_shapes
from switch_t5.model.config import ModelConfig

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_SIZES = {
  "vocab_size": 256,
  "d_model": 16,
  "d_ff": 32,
  "d_kv": 4,
  "num_heads": 4,
  "num_encoder_layers": 4,
  "num_decoder_layers": 2,
}
_SWITCH = {
  "num_experts": 4,
  "num_encoder_sparse_layers": 2,
  "num_decoder_sparse_layers": 1,
  "sequences_per_group": 1,
  "init_scale": 0.1,
}
_GATED = {"mlp_activations": ("gelu", "linear"), "logits_via_embedding": False}


def dense(**changes) -> ModelConfig:
  """A tiny T5 1.0."""
  return ModelConfig(**_SIZES | changes)


def gated(**changes) -> ModelConfig:
  """A tiny T5 1.1."""
  return ModelConfig(**_SIZES | _GATED | changes)


def switch(**changes) -> ModelConfig:
  """A tiny Switch model, every other layer sparse."""
  return ModelConfig(**_SIZES | _SWITCH | changes)


def array(values: np.ndarray) -> StoredArray:
  """Stands for an array of a checkpoint."""
  return StoredArray(values.shape, values.dtype, lambda: values)


def checkpoint(
  config: ModelConfig, *, step: int = 7, adafactor: bool = True, dtype=np.float32, seed: int = 0
) -> StoredCheckpoint:
  """A checkpoint of a model, with Adafactor's state or without any."""
  rng = np.random.default_rng(seed)
  arrays = {}
  for name, shape in expected_shapes(config).items():
    arrays[PARAMETERS + name] = array(rng.normal(size=shape).astype(dtype))
    if adafactor:
      for slot, slot_shape in adafactor_slots(name, shape).items():
        used = slot_shape != UNUSED
        values = rng.uniform(0.5, 1.5, slot_shape) if used else np.zeros(UNUSED)
        arrays[f"{PARAM_STATES}{name}/{slot}"] = array(values.astype(np.float32))
  arrays[STEP] = array(np.asarray(step, np.int32))
  return StoredCheckpoint(pathlib.Path("memory"), "of the tests", arrays)


def assert_same(found: StoredCheckpoint, wanted: StoredCheckpoint) -> None:
  """Holds that both have the same arrays, bit for bit."""
  assert found.arrays.keys() == wanted.arrays.keys()
  for name, stored in wanted.arrays.items():
    other = found.arrays[name]
    assert (other.shape, other.dtype) == (stored.shape, stored.dtype), name
    values = other.read()
    assert (values.shape, values.dtype) == (stored.shape, stored.dtype), name
    assert values.tobytes() == stored.read().tobytes(), name


def ignore(name: str, size: int) -> None:
  """Progress that nobody watches."""


def small() -> ModelConfig:
  """A Switch model of a layer each, for the embedded vocabulary."""
  one_layer = ("num_encoder_layers", "num_decoder_layers", "num_encoder_sparse_layers")
  return switch(vocab_size=8100, **dict.fromkeys(one_layer, 1))


def write_run(model_dir: pathlib.Path, source: StoredCheckpoint | None = None) -> pathlib.Path:
  """Writes a checkpoint, or one of random numbers, as a run of ours with the embedded vocabulary."""
  source = source or checkpoint(small(), adafactor=False)
  import_checkpoint(source, model_dir, "", ignore)
  shutil.copyfile(embedded_vocabulary_path(), model_dir / TOKENIZER)
  return model_dir
