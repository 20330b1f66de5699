# SPDX-License-Identifier: Apache-2.0
"""Tiny checkpoints of every format and form, as they are before anything is done to them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import shutil
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import tensorstore as ts

from benchmarks.adafactor_slots import adafactor_slots
from switch_t5.checkpoint import manifest
from switch_t5.checkpoint.tree import nested
from switch_t5.interop import (
  detect,
  huggingface,
  own,
  safetensors_files,
  t5x_native,
  t5x_orbax,
  t5x_safetensors,
)
from switch_t5.interop.checkpoint import (
  PARAM_STATES,
  PARAMETERS,
  STEP,
  StoredArray,
  StoredCheckpoint,
)
from switch_t5.interop.model_shape import expected_shapes
from switch_t5.interop.msgpack_tree import write_tree
from switch_t5.model.config import ModelConfig

# No two axes have one size, so that a shape with two of them changed over is another shape; the table
# needs no padding, so that the optimizer's state can be gone on with.
MODEL = ModelConfig(
  vocab_size=128,
  d_model=8,
  d_ff=20,
  d_kv=4,
  num_heads=3,
  num_encoder_layers=2,
  num_decoder_layers=1,
  num_experts=2,
  num_encoder_sparse_layers=1,
  num_decoder_sparse_layers=1,
  sequences_per_group=1,
)
NAME = "checkpoint_7"  # of every checkpoint's folder: ours must be called after its step
BAIT = 77.25  # every number of a checkpoint that must never be read
SEALED_AGAIN = "sealed again"  # the form of ours whose manifest is right after the change too
_SHARD_BYTES = 6000
_PLACEHOLDER = "PLACEHOLDER://"


class Variant(NamedTuple):
  """A form of a format.

  Attributes:
    format: one of `detect.FORMATS`.
    form: for people.
    path: of the checkpoint, in a folder of its own.
    bait: of one in the same form that holds BAIT alone.
  """

  format: str
  form: str
  path: pathlib.Path
  bait: pathlib.Path


def write_variants(folder: pathlib.Path) -> list[Variant]:
  """Writes all forms, and beside each of them its bait."""
  for place, is_bait in (("pristine", False), ("bait", True)):
    _write_all(folder / place, is_bait)
  variants = []
  for path in sorted((folder / "pristine").iterdir()):
    kind, _, form = path.name.partition(", ")
    variants.append(Variant(kind, form, path / NAME, folder / "bait" / path.name / NAME))
  return variants


def seal_again(path: pathlib.Path, before: Mapping[str, Any]) -> None:
  """Gives a checkpoint of ours a manifest of the files that it has now.

  Args:
    path: of the checkpoint.
    before: the fields of its manifest.
  """
  (path / manifest.MANIFEST).unlink(missing_ok=True)
  manifest.seal_process(path, 0)
  manifest.seal(path, before["step"], before["state"], 1)


def sign_again(path: pathlib.Path) -> None:
  """Gives a changed manifest of ours the checksum of what it says now."""
  fields = json.loads(path.read_bytes())
  fields.pop("sha256", None)
  text = json.dumps(fields, sort_keys=True).encode()
  fields["sha256"] = hashlib.sha256(text).hexdigest()
  path.write_text(json.dumps(fields, sort_keys=True, indent=1) + "\n", encoding="utf-8")


def _write_all(root: pathlib.Path, is_bait: bool) -> None:
  def folder(kind: str, form: str) -> pathlib.Path:
    path = root / f"{kind}, {form}" / NAME
    path.mkdir(parents=True)
    return path

  whole = _checkpoint(np.dtype(np.float32), is_bait)
  halves = _checkpoint(np.dtype(ml_dtypes.bfloat16), is_bait)
  t5x_native.write_t5x(whole, folder(detect.T5X, "native"), _ignore)
  _write_placeholders(whole, folder(detect.T5X, "older Orbax"))
  _write_inline(whole, folder(detect.T5X, "inline"))
  # Databases take a second for a hundred arrays.
  short = _without_states(whole) if is_bait else whole
  orbax = folder(detect.ORBAX, "database")
  t5x_orbax.write_t5x_orbax(short, orbax, _ignore)
  _compact(orbax / t5x_orbax.ITEM)
  _write_orbax_folders(_without_states(whole), folder(detect.ORBAX, "folders"), orbax)
  one_file = folder(detect.HUGGING_FACE, "one file")
  huggingface.write_huggingface(whole, one_file, _ignore)
  _split(one_file, folder(detect.HUGGING_FACE, "shards"))
  t5x_safetensors.write_t5x_safetensors(whole, folder(detect.SAFETENSORS, "one file"), _ignore)
  halved = folder(detect.SAFETENSORS, "shards")
  t5x_safetensors.write_t5x_safetensors(halves, halved.parent, _ignore)
  _split(halved.parent, halved)
  (halved.parent / safetensors_files.ONE_FILE).unlink()
  sealed = folder(detect.OWN, "sealed")
  sealed.rmdir()
  own.write_own(short, MODEL, sealed.parent, "# gin\n", _ignore)
  _compact(sealed)
  seal_again(sealed, json.loads((sealed / manifest.MANIFEST).read_bytes()))
  shutil.copytree(sealed.parent, root / f"{detect.OWN}, {SEALED_AGAIN}")


def _checkpoint(dtype: np.dtype, is_bait: bool) -> StoredCheckpoint:
  """Returns parameters of a dtype and Adafactor's state; every array differs from all others."""
  arrays = {}
  for name, shape in expected_shapes(MODEL).items():
    arrays[PARAMETERS + name] = _array(name, shape, dtype, is_bait)
    for slot, size in adafactor_slots(name, shape).items():
      full = f"{PARAM_STATES}{name}/{slot}"
      arrays[full] = _array(full, size, np.dtype(np.float32), is_bait)
  step = np.asarray(7, np.int32)
  arrays[STEP] = StoredArray((), step.dtype, lambda: step)
  return StoredCheckpoint(pathlib.Path("memory"), "random", arrays)


def _without_states(checkpoint: StoredCheckpoint) -> StoredCheckpoint:
  kept = {n: array for n, array in checkpoint.arrays.items() if not n.startswith(PARAM_STATES)}
  return dataclasses.replace(checkpoint, arrays=kept)


def _array(name: str, shape: tuple[int, ...], dtype: np.dtype, is_bait: bool) -> StoredArray:
  if is_bait:
    values = np.full(shape, BAIT, dtype)
  else:
    values = np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape).astype(dtype)
  return StoredArray(shape, dtype, lambda: values)


def _ignore(name: str, size: int) -> None:
  """Progress that nobody watches."""


def _write_placeholders(checkpoint: StoredCheckpoint, folder: pathlib.Path) -> None:
  leaves: dict[str, Any] = {}
  for name, array in checkpoint.arrays.items():
    leaves[name] = array
    if name.startswith(PARAMETERS):
      leaves[name] = _PLACEHOLDER + _write_folder(folder, name, array)
  write_tree(folder / t5x_native.FILE, _nested(leaves), _ignore)


def _write_inline(checkpoint: StoredCheckpoint, folder: pathlib.Path) -> None:
  """Writes all arrays into the file, one of them in pieces."""
  leaves: dict[str, Any] = dict(checkpoint.arrays)
  table = PARAMETERS + "token_embedder/embedding"
  leaves[table] = _in_pieces(checkpoint.arrays[table], 300)
  write_tree(folder / t5x_native.FILE, {"version": 3, "optimizer": _nested(leaves)}, _ignore)


def _in_pieces(array: StoredArray, size: int) -> dict[str, Any]:
  flat = array.read().reshape(-1)
  pieces = [flat[start : start + size] for start in range(0, flat.size, size)]
  return {
    "__msgpack_chunked_array__": True,
    "shape": {str(i): n for i, n in enumerate(array.shape)},
    "chunks": {
      str(i): StoredArray(piece.shape, piece.dtype, lambda piece=piece: piece)
      for i, piece in enumerate(pieces)
    },
  }


def _write_orbax_folders(
  checkpoint: StoredCheckpoint, folder: pathlib.Path, database: pathlib.Path
) -> None:
  """Writes what Orbax does without its database."""
  state = folder / t5x_orbax.ITEM
  state.mkdir()
  for name, array in checkpoint.arrays.items():
    _write_folder(state, name, array)
  metadata = json.loads((database / t5x_orbax.ITEM / t5x_orbax.METADATA).read_bytes())
  entries = metadata["tree_metadata"]
  metadata |= {"use_ocdbt": False, "tree_metadata": {}}
  for key, entry in entries.items():
    if "/".join(part["key"] for part in entry["key_metadata"]) in checkpoint.arrays:
      metadata["tree_metadata"][key] = entry
  (state / t5x_orbax.METADATA).write_text(json.dumps(metadata))


def _write_folder(parent: pathlib.Path, name: str, array: StoredArray) -> str:
  """Writes an array as a folder, in two chunks along its first axis where it is long enough."""
  folder = name.replace("/", ".")
  chunks = [n // 2 + 1 if i == 0 and n > 2 else n for i, n in enumerate(array.shape)]
  compressor = {"id": "zstd", "level": 1}
  spec = {
    "driver": "zarr",
    "dtype": array.dtype.name,
    "kvstore": {"driver": "file", "path": f"{parent / folder}/", "file_io_sync": False},
    "metadata": {"shape": list(array.shape), "chunks": chunks, "compressor": compressor},
    "store_data_equal_to_fill_value": True,
  }
  ts.open(spec, create=True).result().write(array.read()).result()
  return folder


def _split(one_file: pathlib.Path, folder: pathlib.Path) -> None:
  """Writes a checkpoint in one file again as several, with what else is beside it."""
  arrays = safetensors_files.open_files(one_file)
  safetensors_files.write_files(arrays, folder, _ignore, _SHARD_BYTES)
  for file in one_file.glob("*.json"):
    shutil.copy(file, folder)


def _nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
  return nested({tuple(name.split("/")): leaf for name, leaf in leaves.items()})


def _compact(folder: pathlib.Path) -> None:
  """Writes a database again, in one go: written array by array, it is mostly of what it was before."""
  spec = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/"}}
  store = ts.KvStore.open(spec).result()
  contents = {key: store.read(key).result().value for key in store.list().result()}
  for old in ("d", "ocdbt.process_0"):
    shutil.rmtree(folder / old)
  (folder / "manifest.ocdbt").unlink()
  with ts.Transaction() as transaction:
    again = ts.KvStore.open(spec).result().with_transaction(transaction)
    for key, value in contents.items():
      again.write(key, value).result()
