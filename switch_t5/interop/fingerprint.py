# SPDX-License-Identifier: Apache-2.0
"""The fingerprint of a checkpoint: a hash of the bytes that it consists of, wherever it lies."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import os
import pathlib

from switch_t5.checkpoint.listing import good_manifest
from switch_t5.checkpoint.manifest import find_problems
from switch_t5.data.shards import sha256
from switch_t5.interop import detect, safetensors_files, t5x_native, t5x_orbax, untrusted, zarr
from switch_t5.interop.huggingface_config import CONFIG
from switch_t5.storage import files
from switch_t5.storage.location import Location

_THREADS = 4  # hashlib releases the GIL; more saturate few disks


def fingerprint(path: str | os.PathLike[str]) -> str:
  """Returns a SHA-256 (hex) over the names and the content of a checkpoint's files.

  Neither the folder's name nor when it was written counts, nor what lies beside the arrays and what
  describes them, such as a tokenizer or a README. Of one of ours the hashes in its manifest are taken
  as they are: whoever opens it has them verified. A conversion to another format has another one.

  Args:
    path: see `detect.detect`.

  Raises:
    CheckpointError: if there is no checkpoint that is read, or its files cannot be.
  """
  kind, found = detect.detect(path)
  if kind == detect.OWN:
    entries = good_manifest(found, find_problems(found, None, hashes=False)).files
    hashes = {name: entry.sha256 for name, entry in entries.items()}
  else:
    hashes = _hashes(_FILES[kind](found))
  return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def _hashes(paths: dict[str, Location]) -> dict[str, str]:
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as executor:
    return dict(zip(paths, executor.map(_hash, paths.values()), strict=True))


def _hash(path: Location) -> str:
  try:
    if not files.is_file(path):  # a pipe would be waited for without end
      raise untrusted.refuse(path, "not a file")
    return sha256(path)
  except OSError as error:
    raise untrusted.refuse(path, str(error.strerror or error)) from error


def _t5x_files(path: Location) -> dict[str, Location]:
  """Returns the msgpack file and those of the arrays beside it, by the names that T5X gives them."""
  file = path if files.is_file(path) else path / t5x_native.FILE
  found = {t5x_native.FILE: file}
  for array in sorted(file.parent.glob(f"*/{zarr.METADATA}")):
    found |= _below(array.parent, f"{array.parent.name}/")
  return found


def _orbax_files(path: Location) -> dict[str, Location]:
  return _below(path if files.exists(path / t5x_orbax.METADATA) else path / t5x_orbax.ITEM)


def _safetensors_files(path: Location) -> dict[str, Location]:
  path = pathlib.Path(path)  # `detect` refuses those of an object store
  if path.is_file():
    return {safetensors_files.ONE_FILE: path}
  described_by = [path / CONFIG, path / safetensors_files.INDEX]
  found = [*path.glob("*.safetensors"), *filter(pathlib.Path.exists, described_by)]
  return {file.name: file for file in found}


def _below(folder: Location, prefix: str = "") -> dict[str, Location]:
  return {prefix + name: folder / name for name in untrusted.walk(folder)}


_FILES = {
  detect.T5X: _t5x_files,
  detect.ORBAX: _orbax_files,
  detect.HUGGING_FACE: _safetensors_files,
  detect.SAFETENSORS: _safetensors_files,
}
