# SPDX-License-Identifier: Apache-2.0
"""Copies on this host of files in object storage, for libraries that read file systems only."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from switch_t5 import errors
from switch_t5.storage import files, objects, transfers
from switch_t5.storage.location import Location, is_remote, location


def default_root() -> Path:
  """Returns the folder of this host's caches and copies."""
  return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "switch_t5"


def copies() -> Path:
  """Returns the folder of the copies."""
  return default_root() / "copies"


def copy_file(path: str | os.PathLike[str]) -> Path:
  """Returns a file of this host with the content of one; see `copy_folder`.

  Raises:
    FileNotFoundError: there is no such object.
    DataError: there is no room for it.
  """
  path = location(path)
  if not is_remote(path):
    return Path(path)
  copy = copy_folder(path.parent, [path.name]) / path.name
  if path.name not in files.sizes(copy.parent):
    raise FileNotFoundError(str(path))
  return copy


def copy_folder(folder: Location, names: Iterable[str]) -> Path:
  """Returns a folder of this host; of one in object storage a copy with those files that are there.

  An object is copied once in a process: it may have changed since another one did.

  Args:
    folder: of the files.
    names: of the files, relative to it.

  Raises:
    DataError: there is no room for them.
  """
  if not is_remote(folder):
    return Path(folder)
  copy = copies() / f"files-{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}"
  there = objects.sizes(folder)
  for name in names:
    if name in there:
      _copy(str(folder / name), copy / name)
    else:
      (copy / name).unlink(missing_ok=True)
  return copy


@functools.cache
def _copy(path: str, copy: Path) -> None:
  try:
    copy.parent.mkdir(parents=True, exist_ok=True)
    with files.committed(copy) as temporary:
      transfers.download(location(path), temporary)
  except OSError as error:
    raise no_copy(copy, str(error.strerror or error)) from error


def no_copy(copy: Path, why: str) -> errors.DataError:
  """Returns the error of a copy that cannot be made."""
  return errors.DataError(
    "What is in object storage cannot be copied to this host.",
    value=f"{copy}: {why}",
    rule="it is read from a copy on a disk of each host",
    remedy="set XDG_CACHE_HOME to a folder on a larger disk, or delete copies beside it that no run needs "
    "any more; or mount the bucket, and give the folder where it is mounted",
  )
