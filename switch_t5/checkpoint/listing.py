# SPDX-License-Identifier: Apache-2.0
"""The checkpoints of a run as a directory shows them: `checkpoints/checkpoint_<step>/`.

Only committed checkpoints have such a name. What is being written, deleted or was set aside has a
suffix, so a reader in another process never mistakes it. On an object store a folder of that name is
one if it has a manifest. Needs no JAX.
"""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from switch_t5.checkpoint.manifest import (
  MANIFEST,
  FileProblem,
  Manifest,
  find_problems,
  read_manifest,
)
from switch_t5.errors import CheckpointError
from switch_t5.storage import objects
from switch_t5.storage.location import Location, is_remote, location

_STEP_NAME = re.compile(r"checkpoint_(0|[1-9]\d*)")


class CheckpointInfo(NamedTuple):
  """One checkpoint in a listing.

  Attributes:
    step: the training step.
    path: its directory.
    bytes: the size of all its files.
    files: how many there are.
    committed: when it was saved, ISO 8601, UTC; None if its manifest is damaged.
    problems: what verification found, empty if it is good; None if it was not asked for.
  """

  step: int
  path: Location
  bytes: int
  files: int
  committed: str | None
  problems: list[FileProblem] | None


def step_path(directory: Location, step: int) -> Location:
  """Returns where the checkpoint of `step` is."""
  return directory / f"checkpoint_{step}"


def list_steps(directory: Location) -> list[int]:
  """Returns the steps that were committed, ascending; [] if there is no such directory."""
  if is_remote(directory):
    return [s for s in begun_steps(directory) if objects.exists(step_path(directory, s) / MANIFEST)]
  if not directory.is_dir():
    return []
  matches = [_STEP_NAME.fullmatch(path.name) for path in directory.iterdir()]
  return sorted(int(match[1]) for match in matches if match)


def begun_steps(directory: Location) -> list[int]:
  """Returns the steps of which an object store has anything, ascending."""
  matches = [_STEP_NAME.fullmatch(name) for name in objects.folders(directory)]
  return sorted(int(match[1]) for match in matches if match)


def list_checkpoints(
  directory: str | os.PathLike[str], *, verify: bool = False
) -> list[CheckpointInfo]:
  """Returns all checkpoints in `directory` by ascending step; a run may be writing there.

  Args:
    directory: `<MODEL_DIR>/checkpoints`.
    verify: whether to verify each, which reads all bytes.
  """
  directory = location(directory)
  infos = []
  for step in list_steps(directory):
    path = step_path(directory, step)
    try:
      problems = verify_checkpoint(path) if verify else None
      sizes = _sizes(path)
      manifest = read_manifest(path)
    except (FileNotFoundError, CheckpointError):
      if _is_there(path):
        raise
    if _is_there(path):  # else its run has just deleted it
      committed = None if isinstance(manifest, FileProblem) else manifest.committed
      infos.append(CheckpointInfo(step, path, sum(sizes), len(sizes), committed, problems))
  return infos


def verify_checkpoint(path: str | os.PathLike[str]) -> list[FileProblem]:
  """Reads all files of one checkpoint and returns what is wrong with them; [] if it is good.

  Args:
    path: a `checkpoint_<step>` directory, also a copy under another name.

  Raises:
    CheckpointError: if there is no such directory.
  """
  path = location(path)
  if not _is_there(path):
    raise CheckpointError(
      "There is no such checkpoint.",
      value=path,
      rule="a checkpoint is a directory, <MODEL_DIR>/checkpoints/checkpoint_<step>",
      remedy="`switch_t5 checkpoint ls` shows those that exist",
    )
  match = _STEP_NAME.fullmatch(path.name)
  return find_problems(path, int(match[1]) if match else None)


def good_manifest(path: Location, problems: Sequence[FileProblem]) -> Manifest:
  """Returns the manifest of a checkpoint in which verification found nothing.

  Args:
    path: of the checkpoint.
    problems: what it found.

  Raises:
    CheckpointError: if it found something.
  """
  found = read_manifest(path)
  if problems or not isinstance(found, Manifest):
    raise CheckpointError(
      "The checkpoint is damaged, or is none of ours.",
      value=f"{path}: {'; '.join(str(problem) for problem in problems[:3])}",
      rule="every file of a checkpoint is as its manifest says",
    )
  return found


def _is_there(path: Location) -> bool:
  return objects.exists(path) if is_remote(path) else path.is_dir()


def _sizes(path: Location) -> list[int]:
  if is_remote(path):
    return list(objects.sizes(path).values())
  return [file.stat().st_size for file in pathlib.Path(path).rglob("*") if file.is_file()]
