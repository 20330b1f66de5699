# SPDX-License-Identifier: Apache-2.0
"""Writes a checkpoint of any format as one of another, an array at a time.

What is being written has a name that no reader takes for a checkpoint; it gets its own when all of
it is on the disk. To an object store one of ours is written as a run writes it; another is written in
TMPDIR first, and what tells a reader that it is a checkpoint is put last.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from switch_t5.checkpoint import stored_steps
from switch_t5.checkpoint.commit import rename_durably
from switch_t5.checkpoint.listing import list_steps
from switch_t5.checkpoint.manifest import MANIFEST
from switch_t5.errors import CheckpointError
from switch_t5.interop import (
  detect,
  huggingface,
  huggingface_config,
  own,
  safetensors_files,
  t5x_native,
  t5x_orbax,
  t5x_safetensors,
  untrusted,
)
from switch_t5.interop.checkpoint import Progress, StoredCheckpoint
from switch_t5.interop.model_shape import deduce_model
from switch_t5.model.config import ModelConfig
from switch_t5.storage import files, transfers
from switch_t5.storage.files import fsync
from switch_t5.storage.location import Location, is_remote

EXPORTED = tuple(name for name in detect.FORMATS if name != detect.OWN)
_UNFINISHED = ".unfinished"
_UPLOADS = 8  # side by side
# Files by which a reader knows a checkpoint, and those that say which others there are.
_MARKS = (
  t5x_native.FILE,
  f"{t5x_orbax.ITEM}/{t5x_orbax.METADATA}",
  huggingface_config.CONFIG,
  safetensors_files.INDEX,
)
_HEADROOM = 1.05  # metadata, and what compression adds to random numbers

Write = Callable[[StoredCheckpoint, pathlib.Path, Progress], None]


def model_of(checkpoint: StoredCheckpoint) -> ModelConfig:
  """Returns the model that a checkpoint holds; see `deduce_model`."""
  return deduce_model(checkpoint.parameter_shapes(), checkpoint.path)


def import_checkpoint(
  checkpoint: StoredCheckpoint, model_dir: Location, config_text: str, progress: Progress
) -> Location:
  """Writes `<model_dir>/checkpoints/checkpoint_<step>`, which a run goes on with, and returns it.

  Raises:
    CheckpointError: if the checkpoint does not hold a model of ours, if there is one already, or if
      the disk is too small.
  """
  config = model_of(checkpoint)
  directory = (model_dir if is_remote(model_dir) else model_dir.absolute()) / "checkpoints"
  target = directory / f"checkpoint_{checkpoint.step}"
  _check_target(target, written_bytes(checkpoint, detect.OWN))
  if steps := list_steps(directory):
    raise CheckpointError(
      "There are checkpoints of a run already where the checkpoint would go.",
      value=f"{directory}: steps {', '.join(map(str, steps))}",
      rule="a run has one past: it would go on from the newest of them",
      remedy="choose another --to",
    )
  with _naming(target):
    _remove_leftovers(directory, target.name)
    files.make_directory(directory)
    return own.write_own(checkpoint, config, directory, config_text, progress)


def export_checkpoint(
  checkpoint: StoredCheckpoint,
  kind: str,
  to: Location,
  progress: Progress,
  tokenizer: pathlib.Path | None = None,
  texts: Mapping[str, str] = MappingProxyType({}),
) -> Location:
  """Writes a checkpoint in another format and returns its path.

  Args:
    checkpoint: of any format.
    kind: one of `EXPORTED`.
    to: the checkpoint's own folder with Hugging Face and safetensors; with T5X's formats the folder of
      a run, in which it is `checkpoint_<step>`.
    progress: see `checkpoint`.
    tokenizer: a SentencePiece model to write beside it (Hugging Face).
    texts: files to write into its folder, by name.

  Raises:
    CheckpointError: if the format cannot say this model, if there is something already, or if the
      disk is too small.
  """
  model_of(checkpoint)  # what is not a T5 or Switch model is of no use to a reader
  writers: dict[str, Write] = {
    detect.T5X: t5x_native.write_t5x,
    detect.ORBAX: t5x_orbax.write_t5x_orbax,
    detect.SAFETENSORS: t5x_safetensors.write_t5x_safetensors,
    detect.HUGGING_FACE: functools.partial(huggingface.write_huggingface, tokenizer=tokenizer),
  }
  folder = to / f"checkpoint_{checkpoint.step}" if kind in (detect.T5X, detect.ORBAX) else to
  if is_remote(to):
    return _export_to_store(checkpoint, kind, folder, progress, tokenizer, texts)
  target = pathlib.Path(folder).absolute()
  _check_target(target, written_bytes(checkpoint, kind))
  unfinished = target.with_name(target.name + _UNFINISHED)
  try:
    with _naming(target):
      if unfinished.exists():  # of a conversion that was killed
        shutil.rmtree(unfinished)
      unfinished.mkdir(parents=True)
      writers[kind](checkpoint, unfinished, progress)
      for name, text in texts.items():
        (unfinished / name).write_text(text, encoding="utf-8")
      _fsync_all(unfinished)
      if target.exists():
        target.rmdir()  # an empty folder of the user's
      rename_durably(unfinished, target)
  except BaseException:
    shutil.rmtree(unfinished, ignore_errors=True)
    raise
  return target


def _export_to_store(
  checkpoint: StoredCheckpoint, kind: str, target: Location, *more: Any
) -> Location:
  """Writes a checkpoint to a folder of this host, then puts its files as objects."""
  if files.names(target):
    raise _occupied(target)
  with tempfile.TemporaryDirectory() as folder:
    made = pathlib.Path(export_checkpoint(checkpoint, kind, pathlib.Path(folder, "made"), *more))
    names = untrusted.walk(made)
    marks = [name for name in names if name in _MARKS]
    with concurrent.futures.ThreadPoolExecutor(_UPLOADS) as executor:
      others = [name for name in names if name not in marks]
      list(executor.map(lambda name: transfers.upload(made / name, target / name), others))
    for name in marks:
      transfers.upload(made / name, target / name)
  return target


def _remove_leftovers(directory: Location, name: str) -> None:
  """Removes what conversions that were killed have left."""
  if is_remote(directory):
    stored_steps.remove_unfinished(directory)
    return
  for leftover in directory.glob(f"{name}.*tmp*"):
    shutil.rmtree(leftover)


def written_bytes(checkpoint: StoredCheckpoint, kind: str) -> int:
  """Returns the bytes of the arrays that a conversion to `kind` writes."""
  arrays = checkpoint.arrays
  if kind == detect.HUGGING_FACE:
    arrays = checkpoint.parameters()
  if kind == detect.OWN:  # all float32
    return sum(array.nbytes // array.dtype.itemsize * 4 for array in arrays.values())
  return sum(array.nbytes for array in arrays.values())


def _occupied(target: Location) -> CheckpointError:
  return CheckpointError(
    "There is something already where the checkpoint would go.",
    value=target,
    rule="nothing is overwritten",
    remedy="choose another --to, or remove it",
  )


def _check_target(target: Location, size: int) -> None:
  """Refuses a target that is there, and one for which there is no room."""
  if is_remote(target):
    if files.exists(target / MANIFEST):
      raise _occupied(target)
    return
  if target.exists() and (not target.is_dir() or any(target.iterdir())):
    raise _occupied(target)
  there = pathlib.Path(target)
  while not there.exists():
    there = there.parent
  free, needed = shutil.disk_usage(there).free, int(size * _HEADROOM)
  if free < needed:
    raise CheckpointError(
      "The disk is too small for the checkpoint.",
      value=f"{target}: {free:,} bytes are free",
      rule=f"it may take {needed:,} bytes",
    )


@contextlib.contextmanager
def _naming(target: Location) -> Iterator[None]:
  """Makes what the system or a library says of a write an error of ours."""
  try:
    yield
  except (OSError, ValueError) as error:  # TensorStore reports a full disk as ValueError
    raise CheckpointError(
      "The checkpoint was not written.",
      value=f"{target}: {str(error).partition(chr(10))[0]}",
      rule="nothing is left that looks like one",
      remedy="see to the space (df, quota) and rights of this folder, then convert again",
    ) from error


def _fsync_all(directory: pathlib.Path) -> None:
  for folder, _, names in os.walk(directory):
    for file in names:
      fsync(pathlib.Path(folder) / file)
    fsync(pathlib.Path(folder))
