# SPDX-License-Identifier: Apache-2.0
"""Tells from a path which format a checkpoint has, and opens it."""

from __future__ import annotations

import pathlib
import re

from switch_t5.checkpoint.manager import DATA_STATE
from switch_t5.checkpoint.manifest import MANIFEST
from switch_t5.errors import CheckpointError
from switch_t5.interop import huggingface, own, t5x_native, t5x_orbax, t5x_safetensors
from switch_t5.interop.checkpoint import StoredCheckpoint, check_kinds

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
_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_HUB = re.compile(r"[\w.-]+/([\w.-]+)", re.ASCII)
_STEP = re.compile(r"checkpoint_(0|[1-9]\d{0,17})")
_TENSORFLOW = b"model_checkpoint_path"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def open_checkpoint(path: str | pathlib.Path) -> StoredCheckpoint:
  """Opens the checkpoint at a path; see `detect`.

  Raises:
    CheckpointError: if there is none that is read, or if it says what cannot be.
  """
  kind, found = detect(path)
  checkpoint = _OPEN[kind](found)
  check_kinds(checkpoint)
  return checkpoint


def detect(path: str | pathlib.Path) -> tuple[str, pathlib.Path]:
  """Returns the format of a checkpoint, one of `FORMATS`, and its own path.

  Args:
    path: of a checkpoint, or of the folder of a run, whose newest checkpoint is meant.

  Raises:
    CheckpointError: if there is none, or if it is of a format that is not read; with the way round.
  """
  if _REMOTE.match(str(path)):
    raise _refuse(
      path,
      "checkpoints are read from a file system",
      f"copy it first: `gcloud storage cp -r {path} .`, or `hf download` for Hugging Face's",
    )
  given = pathlib.Path(path).absolute()
  if given.is_file():
    return _detect_file(given), given
  if not given.is_dir():
    hub = _HUB.fullmatch(str(path))
    remedy = (
      f"if it is of Hugging Face's hub: `hf download {path} --local-dir {hub[1]}`" if hub else None
    )
    raise _refuse(given, "a folder or a file that exists", remedy)
  kind = _detect_folder(given)
  if kind is not None:
    return kind, given
  newest = _newest(given)
  if newest is None:
    raise _refuse(
      given,
      "a checkpoint of ours (manifest.json), of T5X (the file checkpoint, or state/_METADATA), of "
      "Hugging Face (config.json and *.safetensors), or a folder with such checkpoint_<step>",
      None,
    )
  return detect(newest)


def _detect_file(path: pathlib.Path) -> str:
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


def _detect_folder(path: pathlib.Path) -> str | None:
  if (path / MANIFEST).exists() or (path / DATA_STATE).exists():
    return OWN
  if t5x_orbax.is_here(path):
    return ORBAX
  listing = path / "checkpoint"
  if listing.is_file():
    with listing.open("rb") as file:
      if file.read(len(_TENSORFLOW)) == _TENSORFLOW:
        raise _refuse(
          path,
          "checkpoints of TensorFlow (Mesh TensorFlow) are not read",
          "take the T5X conversion that was published of it, or convert it with T5X",
        )
    return T5X
  if (path / "config.json").exists():
    return HUGGING_FACE
  if any(path.glob("*.safetensors")):
    return SAFETENSORS
  if any(path.glob("*.index")):
    raise _refuse(path, "checkpoints of TensorFlow are not read", None)
  for child in sorted(path.iterdir()):
    if child.suffix in _PICKLED:
      _detect_file(child)
  return None


def _newest(path: pathlib.Path) -> pathlib.Path | None:
  """Returns the newest `checkpoint_<step>` of a run's folder."""
  if (path / "checkpoints").is_dir():
    path = path / "checkpoints"
  steps = {int(m[1]): child for child in path.iterdir() if (m := _STEP.fullmatch(child.name))}
  return steps[max(steps)] if steps else None


def _refuse(path: object, rule: str, remedy: str | None) -> CheckpointError:
  return CheckpointError(
    "There is no checkpoint here that can be read.", value=path, rule=rule, remedy=remedy
  )
