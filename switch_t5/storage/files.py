# SPDX-License-Identifier: Apache-2.0
"""Whole files of a file system or an object store: listed, copied here, written in one step.

An object has no half: it is there once all of it was put. So what is written goes to a temporary file
of this host first (in TMPDIR), where a file system has a hidden name beside the final one.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile
import uuid
from collections.abc import Iterator

import fsspec

from switch_t5.storage.location import Location, is_remote

_TEMPORARY = ".incomplete"


def file_system(path: Location) -> fsspec.AbstractFileSystem:
  """Returns the client of an object store; `path` is a location on it."""
  client, _ = fsspec.core.url_to_fs(str(path))
  return client


def make_directory(path: Location) -> None:
  """Makes a directory and those above it; on an object store there are none to be made."""
  if not is_remote(path):
    path.mkdir(parents=True, exist_ok=True)


def sizes(directory: Location) -> dict[str, int]:
  """Returns the bytes of each file in a directory by its name; none if there is no such directory.

  On an object store it is one request for each thousand objects.
  """
  if is_remote(directory):
    try:
      found = file_system(directory).ls(str(directory), detail=True)
    except FileNotFoundError:
      return {}
    files = [entry for entry in found if entry["type"] == "file"]
    return {str(entry["name"]).rpartition("/")[2]: int(entry["size"]) for entry in files}
  try:
    with os.scandir(directory) as entries:
      return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
  except FileNotFoundError:
    return {}


def size(path: Location) -> int:
  """Returns the bytes of a file; raises OSError if it is not there."""
  return int(path.stat().length) if is_remote(path) else pathlib.Path(path).stat().st_size  # type: ignore[union-attr]


def copy_here(path: Location, to: pathlib.Path) -> None:
  """Copies an object to a file of this host."""
  file_system(path).get_file(str(path), str(to))


@contextlib.contextmanager
def committed(path: Location) -> Iterator[pathlib.Path]:
  """Gives a name to write a file under, which then gets its own: whole, and durable."""
  with temporary(path) as unfinished:
    yield unfinished
    commit(unfinished, path)


@contextlib.contextmanager
def temporary(path: Location) -> Iterator[pathlib.Path]:
  """Gives a hidden name that no other process has, for `commit`; a file left there is removed."""
  name = f".{path.name}.{uuid.uuid4().hex}{_TEMPORARY}"
  unfinished = pathlib.Path(tempfile.gettempdir() if is_remote(path) else path.parent, name)
  try:
    yield unfinished
  finally:
    unfinished.unlink(missing_ok=True)


def commit(unfinished: pathlib.Path, path: Location) -> None:
  """Makes a file durable, then its name; on an object store it is put as one object."""
  if is_remote(path):
    file_system(path).put_file(str(unfinished), str(path))
    return
  _synchronise(unfinished)
  os.replace(unfinished, path)
  _synchronise(pathlib.Path(path.parent))


def remove_temporary_files(directory: Location) -> None:
  """Removes what was not renamed, of processes that were killed while they wrote."""
  if not is_remote(directory):
    for path in directory.glob(f".*{_TEMPORARY}"):
      path.unlink(missing_ok=True)


def _synchronise(path: pathlib.Path) -> None:
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
