# SPDX-License-Identifier: Apache-2.0
"""Objects below a gs:// or s3:// folder: listed, read, put, copied and deleted, with retries.

An object is there whole or not at all. A folder is no more than the beginning of names.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib

import fsspec
from etils import epath

from switch_t5.storage.location import Location
from switch_t5.storage.retries import retried

_CHUNK = 64 << 20  # bytes of one request when an object is hashed


def sizes(folder: Location) -> dict[str, int]:
  """Returns the bytes of every object below a folder, by its path within the folder."""
  start = f"{str(folder).partition('://')[2].rstrip('/')}/"
  found = retried(folder, lambda: client(folder).find(str(folder), detail=True))
  return {
    name.removeprefix(start): int(entry["size"])
    for name, entry in found.items()
    if entry["type"] == "file" and name.startswith(start)
  }


def folders(folder: Location) -> list[str]:
  """Returns the names of the folders in a folder."""

  def listed() -> list[dict[str, str]]:
    try:
      return client(folder).ls(str(folder), detail=True)
    except FileNotFoundError:
      return []

  entries = retried(folder, listed)
  paths = [entry["name"].rstrip("/") for entry in entries if entry["type"] == "directory"]
  return sorted(path.rpartition("/")[2] for path in paths)


def exists(path: Location) -> bool:
  """Returns whether there is an object of this name, or a folder."""
  return retried(path, lambda: bool(client(path).exists(str(path))))


def read(path: Location) -> bytes:
  """Returns the content of an object; raises FileNotFoundError if there is none."""
  return retried(path, lambda: bytes(client(path).cat_file(str(path))))


def write(path: Location, content: bytes) -> None:
  """Puts an object, in place of any that is there."""
  retried(path, lambda: client(path).pipe_file(str(path), content))


def copy(source: Location, target: Location) -> None:
  """Copies an object within the store."""
  retried(source, lambda: client(source).cp_file(str(source), str(target)))


def delete(path: Location) -> None:
  """Deletes an object; one that is gone is no error."""

  def removed() -> None:
    with contextlib.suppress(FileNotFoundError):
      client(path).rm_file(str(path))

  retried(path, removed)


def sha256(path: Location, size: int) -> str:
  """Returns the SHA-256 (hexadecimal) of an object of `size` bytes, read back from the store.

  Raises:
    FileNotFoundError: if there is no such object.
  """
  digest, store, name = hashlib.sha256(), client(path), str(path)
  for start in range(0, size, _CHUNK):
    end = min(start + _CHUNK, size)
    digest.update(retried(path, functools.partial(store.cat_file, name, start=start, end=end)))
  return digest.hexdigest()


def client(path: Location) -> fsspec.AbstractFileSystem:
  """Returns fsspec's way to the store of a path."""
  assert isinstance(path, epath.Path)
  return fsspec.core.url_to_fs(str(path))[0]
