# SPDX-License-Identifier: Apache-2.0
"""Tells from a path which format a checkpoint has, and opens it."""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Collection

from switch_t5.checkpoint.manager import DATA_STATE
from switch_t5.checkpoint.manifest import MANIFEST, UNFINISHED
from switch_t5.errors import CheckpointError
from switch_t5.interop import (
  huggingface,
  huggingface_config,
  own,
  t5x_native,
  t5x_orbax,
  t5x_safetensors,
  untrusted,
)
from switch_t5.interop.checkpoint import StoredCheckpoint, check_kinds
from switch_t5.storage import files
from switch_t5.storage.location import Location, is_remote, location

OWN, T5X, ORBAX, HUGGING_FACE, SAFETENSORS = FORMATS = (
  "switch_t5",
  "t5x",
  "orbax",
  "huggingface",
  "safetensors",
)
_OPEN = {
  OWN: own.open_own,
  T5X: t5x_native.open_t5x,
  ORBAX: t5x_orbax.open_t5x_orbax,
  HUGGING_FACE: huggingface.open_huggingface,
  SAFETENSORS: t5x_safetensors.open_t5x_safetensors,
}
_HUB = re.compile(r"[\w.-]+/([\w.-]+)", re.ASCII)
_STEP = re.compile(r"checkpoint_(0|[1-9]\d{0,17})")
_CHECKPOINTS = "checkpoints"
_TENSORFLOW = b"model_checkpoint_path"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def open_checkpoint(path: str | os.PathLike[str]) -> StoredCheckpoint:
  """Opens the checkpoint at a path; see `detect`.

  Raises:
    CheckpointError: if there is none that is read, or if it says what cannot be.
  """
  kind, found = detect(path)
  checkpoint = _OPEN[kind](found)
  check_kinds(checkpoint)
  return checkpoint


def detect(path: str | os.PathLike[str]) -> tuple[str, Location]:
  """Returns the format of a checkpoint, one of `FORMATS`, and its own path.

  Args:
    path: of a checkpoint, or of the folder of a run, whose newest checkpoint is meant.

  Raises:
    CheckpointError: if there is none, or if it is of a format that is not read; with the way round.
    ConfigError: if it is of another kind of store.
  """
  given = location(path)
  if not is_remote(given):
    given = pathlib.Path(given).absolute()
  if files.is_file(given):
    return _here(_detect_file(given), given), given
  there = files.names(given) if is_remote(given) or given.is_dir() else None
  if there is None or (is_remote(given) and not there):
    hub = _HUB.fullmatch(str(path))
    remedy = (
      f"if it is of Hugging Face's hub: `hf download {path} --local-dir {hub[1]}`" if hub else None
    )
    raise _refuse(given, "a folder or a file that exists", remedy)
  kind = _detect_folder(given, there)
  if kind is not None:
    return _here(kind, given), given
  newest = _newest(given, there)
  if newest is None:
    raise _refuse(
      given,
      "a checkpoint of ours (manifest.json), of T5X (the file checkpoint, or state/_METADATA), of "
      "Hugging Face (config.json and *.safetensors), or a folder with such checkpoint_<step>",
      None,
    )
  return detect(newest)


def _here(kind: str, path: Location) -> str:
  """Returns the format, if it is read where it lies: safetensors are mapped into memory."""
  if is_remote(path) and kind in (HUGGING_FACE, SAFETENSORS):
    command = "gcloud storage cp -r" if str(path).startswith("gs://") else "aws s3 cp --recursive"
    raise _refuse(
      path,
      "checkpoints of Hugging Face and safetensors are read from a file system",
      f"copy it first: `{command} {path} FOLDER`",
    )
  return kind


def _detect_file(path: Location) -> str:
  if path.suffix == ".safetensors":
    return SAFETENSORS
  if path.suffix in _PICKLED:
    raise _refuse(
      path,
      "no pickled file is loaded: pickle runs code",
      "where you trust it, load it with transformers and save it again as safetensors "
      "(save_pretrained)",
    )
  return T5X


def _detect_folder(path: Location, there: Collection[str]) -> str | None:
  """Returns the format of a folder, given the names in it."""
  if MANIFEST in there or DATA_STATE in there:
    return OWN
  if t5x_orbax.is_here(path):
    return ORBAX
  if t5x_native.FILE in there and files.is_file(path / t5x_native.FILE):
    if untrusted.read_bytes(path / t5x_native.FILE, len(_TENSORFLOW)) == _TENSORFLOW:
      raise _refuse(
        path,
        "checkpoints of TensorFlow (Mesh TensorFlow) are not read",
        "take the T5X conversion that was published of it, or convert it with T5X",
      )
    return T5X
  if huggingface_config.CONFIG in there:
    return HUGGING_FACE
  suffixes = {pathlib.PurePath(name).suffix for name in there}
  if ".safetensors" in suffixes:
    return SAFETENSORS
  if ".index" in suffixes:
    raise _refuse(path, "checkpoints of TensorFlow are not read", None)
  for name in sorted(there):
    if pathlib.PurePath(name).suffix in _PICKLED:
      _detect_file(path / name)
  return None


def _newest(path: Location, there: Collection[str]) -> Location | None:
  """Returns the newest `checkpoint_<step>` of a run's folder, given the names in it."""
  if _CHECKPOINTS in there:
    path, there = path / _CHECKPOINTS, files.names(path / _CHECKPOINTS)
  steps = {int(m[1]): path / name for name in there if (m := _STEP.fullmatch(name))}
  for step in sorted(steps, reverse=True):
    if not (is_remote(path) and files.exists(steps[step] / UNFINISHED)):
      return steps[step]
  return None


def _refuse(path: object, rule: str, remedy: str | None) -> CheckpointError:
  return CheckpointError(
    "There is no checkpoint here that can be read.", value=path, rule=rule, remedy=remedy
  )
