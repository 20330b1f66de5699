# SPDX-License-Identifier: Apache-2.0
"""Hugging Face's checkpoints of T5 and Switch, read and written: parameters, no optimizer state.

A folder with config.json, safetensors, and perhaps `spiece.model`. `names` has what the arrays are
called there. The embedding table has up to four names: `shared.weight`, one for each stack, and
`lm_head.weight` where the logits come from it.
"""

from __future__ import annotations

import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np
import sentencepiece

from switch_t5.data.vocabulary import EXTRA_IDS, Vocabulary
from switch_t5.errors import CheckpointError
from switch_t5.interop import names, safetensors_files, untrusted
from switch_t5.interop.checkpoint import (
  PARAMETERS,
  LastRead,
  Progress,
  StackedArray,
  StoredArray,
  StoredCheckpoint,
)
from switch_t5.interop.huggingface_config import (
  CONFIG,
  check_claims,
  make_config,
  read_config,
  says_tied,
)
from switch_t5.interop.model_shape import deduce_model

FORMAT = "Hugging Face"
TOKENIZER = "spiece.model"
_SHARED, _HEAD = "shared.weight", "lm_head.weight"
_STACK_TABLES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
_CROSS_BIAS = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
_OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.msgpack", "*.h5", "*.ckpt", "*.pkl")


def open_huggingface(path: pathlib.Path) -> StoredCheckpoint:
  """Opens a folder that `save_pretrained` wrote.

  Raises:
    CheckpointError: if it is not a T5 or Switch model of our numerics, if it is not complete, or if
      its configuration says what the arrays are not.
  """
  _check_files(path)
  config = read_config(path)
  model_type = config["model_type"]
  stored = safetensors_files.open_files(path)
  notes = []
  aliases = [name for name in (*_STACK_TABLES, _HEAD) if name in stored]
  if not says_tied(config):
    aliases = [name for name in aliases if name != _HEAD]
  if stored.pop(_CROSS_BIAS, None):
    notes.append(f"{_CROSS_BIAS} is left aside: no version used it.")
  tables = {name: stored.pop(name) for name in aliases}
  if _SHARED in stored:
    stored[_SHARED] = _one_table(path, stored[_SHARED], tables)
  parameters = _by_t5x_name(path, stored, model_type)
  model = deduce_model({name: array.shape for name, array in parameters.items()}, path)
  check_claims(config, model, path)
  if "auto_map" in config:
    notes.append("The code that its auto_map names is not used.")
  if model.num_experts:
    capacity = str(config["expert_capacity"])[:20]
    notes.append(
      f"Its expert_capacity, {capacity} tokens of a sequence, is for Hugging Face: inference here "
      "drops none."
    )
  tokenizer = path / TOKENIZER
  return StoredCheckpoint(
    path,
    FORMAT,
    {PARAMETERS + name: array for name, array in parameters.items()},
    tuple(notes),
    tokenizer if tokenizer.is_file() and not tokenizer.is_symlink() else None,
  )


def write_huggingface(
  checkpoint: StoredCheckpoint,
  directory: pathlib.Path,
  progress: Progress,
  tokenizer: pathlib.Path | None = None,
) -> None:
  """Writes what `from_pretrained` loads as T5 or, with sparse layers, SwitchTransformers.

  Args:
    checkpoint: its parameters are written, its optimizer's state is not.
    directory: an empty folder.
    progress: see `checkpoint`.
    tokenizer: a SentencePiece model; None: that of the checkpoint, if it has one.

  Raises:
    CheckpointError: before anything is written, if Hugging Face's classes cannot hold the model.
  """
  parameters = checkpoint.parameters()
  model = deduce_model(checkpoint.parameter_shapes(), checkpoint.path)
  dtypes = {array.dtype.name for array in parameters.values()}
  config = make_config(model, dtypes.pop() if len(dtypes) == 1 else "float32")
  arrays = _by_huggingface_name(parameters, config["model_type"])
  if not model.logits_via_embedding and model.num_experts:
    # Transformers 5 gives the stacks tables of their own then, and draws them if they are missing.
    arrays |= dict.fromkeys(_STACK_TABLES, arrays[_SHARED])
  tokenizer = tokenizer or checkpoint.tokenizer
  if tokenizer is not None:
    _write_tokenizer(tokenizer, directory, model.vocab_size)
  _write_json(directory / CONFIG, config)
  ids = ("decoder_start_token_id", "eos_token_id", "pad_token_id")
  _write_json(directory / "generation_config.json", {name: config[name] for name in ids})
  safetensors_files.write_files(arrays, directory, progress)


def _check_files(path: pathlib.Path) -> None:
  """Refuses a folder of links and one without safetensors, with the way round."""
  if (path / CONFIG).is_symlink():
    raise untrusted.refuse(
      path,
      "files that are links, as in Hugging Face's cache",
      rule="a checkpoint has its own files and no links",
      remedy=f"copy what they lead to: cp -rL {path} COPY, or download it with --local-dir",
    )
  here = (path / safetensors_files.ONE_FILE, path / safetensors_files.INDEX)
  others = [file.name for pattern in _OTHER_WEIGHTS for file in sorted(path.glob(pattern))]
  if others and not any(file.exists() for file in here):
    raise untrusted.refuse(
      path,
      f"its arrays are in {others[0]}",
      rule="arrays are read from safetensors only: a pickled file can run code",
      remedy="open it once with transformers in an environment that you trust, and save it with "
      "save_pretrained(..., safe_serialization=True)",
    )


def _one_table(
  path: pathlib.Path, shared: StoredArray, others: Mapping[str, StoredArray]
) -> StoredArray:
  """Returns the table that goes by several names; reading it checks that it is the same by all."""
  for name, other in others.items():
    if other.shape != shared.shape:
      raise untrusted.refuse(path, f"{name} is {other}, and {_SHARED} is {shared}")

  def read() -> np.ndarray:
    table = shared.read()
    for name, other in others.items():
      if not np.array_equal(table, other.read(), equal_nan=True):
        raise untrusted.refuse(
          path,
          f"{name} is not {_SHARED}",
          rule="both stacks embed with one table, and so does the output where it is tied",
        )
    return table

  return StoredArray(shared.shape, shared.dtype, read)


def _by_t5x_name(
  path: pathlib.Path, stored: Mapping[str, StoredArray], model_type: str
) -> dict[str, StoredArray]:
  """Returns the parameters by T5X's names: kernels transposed, experts stacked."""
  pieces: dict[str, dict[int | None, StoredArray]] = {}
  for name, array in stored.items():
    found = names.find_huggingface(name, model_type)
    if found is None:
      raise _unknown(path, name, model_type)
    if array.dtype.name not in untrusted.FLOATS:
      raise untrusted.refuse(
        path, f"{name} is {array}", rule=f"one of {', '.join(untrusted.FLOATS)}"
      )
    piece = _transposed(path, name, array) if found.row.transposed else array
    pieces.setdefault(found.t5x, {})[found.expert] = piece
  most = max((len(by_expert) for by_expert in pieces.values()), default=0)
  parameters = {}
  for name, by_expert in pieces.items():
    if None in by_expert:
      parameters[name] = by_expert[None]
      continue
    for i in range(most):
      if i not in by_expert:
        found = names.find_t5x(name)
        missing = found.huggingface(model_type, i) if found else name
        raise untrusted.refuse(path, f"{missing} is missing", rule="all experts are there")
    parameters[name] = _stacked(path, name, tuple(by_expert[i] for i in range(most)))
  return parameters


def _unknown(path: pathlib.Path, name: str, model_type: str) -> CheckpointError:
  if name.endswith("router.classifier.bias"):
    return untrusted.refuse(path, name, rule="routers have no bias here, as in the paper")
  return untrusted.refuse(path, f"{name!r} is nothing that {model_type} has")


def _transposed(path: pathlib.Path, name: str, array: StoredArray) -> StoredArray:
  if len(array.shape) != 2:
    raise untrusted.refuse(path, f"{name} is {array}", rule="a matrix")
  read = lambda: np.ascontiguousarray(array.read().T)  # noqa: E731
  return StoredArray(array.shape[::-1], array.dtype, read)


def _stacked(path: pathlib.Path, name: str, experts: tuple[StoredArray, ...]) -> StoredArray:
  kinds = sorted({str(expert) for expert in experts})
  if len(kinds) > 1:
    raise untrusted.refuse(path, f"{name}: experts of {' and '.join(kinds)}", rule="all are alike")
  whole = StackedArray((len(experts), *experts[0].shape), experts, is_stacked=True)
  return StoredArray(whole.shape, whole.dtype, whole.read)


def _by_huggingface_name(
  parameters: Mapping[str, StoredArray], model_type: str
) -> dict[str, StoredArray]:
  """Returns the arrays by Hugging Face's names, the experts of a kernel side by side."""
  last = LastRead()
  arrays = {}
  for name, array in parameters.items():
    found = names.find_t5x(name)
    if found is None:
      raise ValueError(f"{name} is not in the table of names")
    if not found.row.shape.startswith("E"):
      arrays[found.huggingface(model_type)] = _slice(last, name, array, ..., found.row.transposed)
      continue
    for i in range(array.shape[0]):
      arrays[found.huggingface(model_type, i)] = _slice(last, name, array, i, True)
  return arrays


def _slice(
  last: LastRead, name: str, array: StoredArray, index: Any, is_transposed: bool
) -> StoredArray:
  shape = array.shape if index is ... else array.shape[1:]

  def read() -> np.ndarray:
    piece = last.read(name, array)[index]
    return np.ascontiguousarray(piece.T) if is_transposed else piece

  return StoredArray(shape[::-1] if is_transposed else shape, array.dtype, read)


def _write_tokenizer(model: pathlib.Path, directory: pathlib.Path, rows: int) -> None:
  """Writes the SentencePiece model, and how many sentinels come above its pieces.

  The ids of pieces and sentinels are ours. But their T5Tokenizer has no byte fallback, which the
  embedded vocabulary has and T5's has not: a character that is in no piece is unknown there.
  """
  pieces = Vocabulary(model, extra_ids=0)
  processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
  # Some models hold the sentinels as pieces of their own.
  has_sentinels = processor.piece_to_id("<extra_id_0>") != processor.unk_id()
  extra_ids = 0 if has_sentinels else EXTRA_IDS
  if pieces.size + extra_ids > rows:
    raise CheckpointError(
      "The vocabulary has more ids than the model's embedding table has rows.",
      value=f"{model}: {pieces.size} pieces and {extra_ids} sentinels, {rows} rows",
      rule="every id has a row",
      remedy="give the vocabulary that the model was trained with",
    )
  shutil.copyfile(model, directory / TOKENIZER)
  special = {"pad_token": pieces.pad_id, "eos_token": pieces.eos_id, "unk_token": pieces.unk_id}
  config = {name: processor.id_to_piece(i) for name, i in special.items()}
  _write_json(
    directory / "tokenizer_config.json",
    {"tokenizer_class": "T5Tokenizer", "extra_ids": extra_ids, **config},
  )


def _write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
  path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
