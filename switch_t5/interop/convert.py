# SPDX-License-Identifier: Apache-2.0
"""Writes a checkpoint of any format as one of another, an array at a time.

What is being written has a name that no reader takes for a checkpoint; it gets its own when all of
it is on the disk.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from switch_t5.checkpoint.commit import rename_durably
from switch_t5.checkpoint.listing import list_steps
from switch_t5.checkpoint.manifest import fsync
from switch_t5.errors import CheckpointError
from switch_t5.interop import detect, huggingface, own, t5x_native, t5x_orbax, t5x_safetensors
from switch_t5.interop.checkpoint import Progress, StoredCheckpoint
from switch_t5.interop.model_shape import deduce_model
from switch_t5.model.config import ModelConfig

EXPORTED = tuple(name for name in detect.FORMATS if name != detect.OWN)
_UNFINISHED = ".unfinished"
_HEADROOM = 1.05  # metadata, and what compression adds to random numbers

Write = Callable[[StoredCheckpoint, pathlib.Path, Progress], None]


def model_of(checkpoint: StoredCheckpoint) -> ModelConfig:
  """Returns the model that a checkpoint holds; see `deduce_model`."""
  return deduce_model(checkpoint.parameter_shapes(), checkpoint.path)


def import_checkpoint(
  checkpoint: StoredCheckpoint, model_dir: pathlib.Path, config_text: str, progress: Progress
) -> pathlib.Path:
  """Writes `<model_dir>/checkpoints/checkpoint_<step>`, which a run goes on with, and returns it.

  Raises:
    CheckpointError: if the checkpoint does not hold a model of ours, if there is one already, or if
      the disk is too small.
  """
  config = model_of(checkpoint)
  directory = model_dir.absolute() / "checkpoints"
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
    for leftover in directory.glob(f"{target.name}.*tmp*"):  # of a conversion that was killed
      shutil.rmtree(leftover)
    directory.mkdir(parents=True, exist_ok=True)
    return own.write_own(checkpoint, config, directory, config_text, progress)


def export_checkpoint(
  checkpoint: StoredCheckpoint,
  kind: str,
  to: pathlib.Path,
  progress: Progress,
  tokenizer: pathlib.Path | None = None,
  texts: Mapping[str, str] = MappingProxyType({}),
) -> pathlib.Path:
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
  target = to.absolute()
  if kind in (detect.T5X, detect.ORBAX):
    target = target / f"checkpoint_{checkpoint.step}"
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


def written_bytes(checkpoint: StoredCheckpoint, kind: str) -> int:
  """Returns the bytes of the arrays that a conversion to `kind` writes."""
  arrays = checkpoint.arrays
  if kind == detect.HUGGING_FACE:
    arrays = checkpoint.parameters()
  if kind == detect.OWN:  # all float32
    return sum(array.nbytes // array.dtype.itemsize * 4 for array in arrays.values())
  return sum(array.nbytes for array in arrays.values())


def _check_target(target: pathlib.Path, size: int) -> None:
  """Refuses a target that is there, and one for which there is no room."""
  if target.exists() and (not target.is_dir() or any(target.iterdir())):
    raise CheckpointError(
      "There is something already where the checkpoint would go.",
      value=target,
      rule="nothing is overwritten",
      remedy="choose another --to, or remove it",
    )
  there = target
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
def _naming(target: pathlib.Path) -> Iterator[None]:
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
  for folder, _, files in os.walk(directory):
    for file in files:
      fsync(pathlib.Path(folder) / file)
    fsync(pathlib.Path(folder))
