# SPDX-License-Identifier: Apache-2.0
"""Whole files of a file system or an object store: listed, copied here, written in one step.

An object has no half: it is there once all of it was put. So what is written goes to a temporary file
of this host first (in TMPDIR), where a file system has a hidden name beside the final one.
"""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import tempfile
import uuid
from collections.abc import Iterator

from switch_t5.storage import objects, transfers
from switch_t5.storage.location import Location, is_remote

_TEMPORARY = ".incomplete"
_RANGE = 16 << 20  # bytes of one request when an object is read from its beginning to its end


def make_directory(path: Location) -> None:
  """Makes a directory and those above it; on an object store there are none to be made."""
  if not is_remote(path):
    path.mkdir(parents=True, exist_ok=True)


def exists(path: Location) -> bool:
  """Returns whether there is such a file or directory."""
  return objects.exists(path) if is_remote(path) else path.exists()


def is_file(path: Location) -> bool:
  """Returns whether there is such a file."""
  return transfers.is_object(path) if is_remote(path) else path.is_file()


def size(path: Location) -> int:
  """Returns the bytes of a file; raises OSError if it is not there."""
  return transfers.size(path) if is_remote(path) else os.stat(path).st_size


def sizes(directory: Location) -> dict[str, int]:
  """Returns the bytes of each file in a directory by its name; none if there is no such directory."""
  if is_remote(directory):
    return {name: size for name, size in objects.sizes(directory).items() if "/" not in name}
  try:
    with os.scandir(directory) as entries:
      return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
  except FileNotFoundError:
    return {}


def names(directory: Location) -> list[str]:
  """Returns the names of the files and folders in a directory, sorted; raises OSError if it is none."""
  if is_remote(directory):
    return sorted([*sizes(directory), *objects.folders(directory)])
  return sorted(os.listdir(directory))


def read(path: Location) -> bytes:
  """Returns the content of a file; raises OSError if it is not there."""
  return objects.read(path) if is_remote(path) else path.read_bytes()


def remove(path: Location) -> None:
  """Removes a file; one that is gone is no error."""
  if is_remote(path):
    objects.delete(path)
  else:
    path.unlink(missing_ok=True)


def open_to_read(path: Location) -> io.BufferedReader:
  """Opens a file that is read from its beginning to its end; raises OSError if it is not there."""
  if not is_remote(path):
    return open(path, "rb")
  return io.BufferedReader(_Object(path), _RANGE)


class _Object(io.RawIOBase):
  """An object as a file: each range of it is one request, which is tried again."""

  def __init__(self, path: Location):
    self._path, self._place, self._size = path, 0, transfers.size(path)

  def readable(self) -> bool:
    return True

  def readinto(self, buffer) -> int:
    end = min(self._place + len(buffer), self._size)
    if end == self._place:
      return 0
    content = transfers.read_range(self._path, self._place, end)
    buffer[: len(content)] = content
    self._place += len(content)
    return len(content)


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
    transfers.upload(unfinished, path)
    return
  fsync(unfinished)
  os.replace(unfinished, path)
  fsync(pathlib.Path(path.parent))


def remove_temporary_files(directory: Location) -> None:
  """Removes what was not renamed, of processes that were killed while they wrote."""
  if not is_remote(directory):
    for path in directory.glob(f".*{_TEMPORARY}"):
      path.unlink(missing_ok=True)


def fsync(path: pathlib.Path) -> None:
  """Makes a file or a directory survive a power cut."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
