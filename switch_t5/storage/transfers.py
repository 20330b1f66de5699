# SPDX-License-Identifier: Apache-2.0
"""Between objects and files of this host, with the retries of `objects`."""

from __future__ import annotations

import pathlib

from switch_t5.storage.location import Location
from switch_t5.storage.objects import client
from switch_t5.storage.retries import retried


def download(path: Location, to: pathlib.Path) -> None:
  """Copies an object to a file; raises FileNotFoundError if there is none."""
  retried(path, lambda: client(path).get_file(str(path), str(to)))


def upload(file: pathlib.Path, path: Location) -> None:
  """Puts a file as one object, in place of any that is there."""
  retried(path, lambda: client(path).put_file(str(file), str(path)))


def size(path: Location) -> int:
  """Returns the bytes of an object; raises FileNotFoundError if there is none."""
  return int(retried(path, lambda: client(path).info(str(path)))["size"])


def is_object(path: Location) -> bool:
  """Returns whether there is an object of this name, which is no folder."""
  try:
    return retried(path, lambda: client(path).info(str(path)))["type"] == "file"
  except FileNotFoundError:
    return False


def read_range(path: Location, start: int, end: int) -> bytes:
  """Returns the bytes [start, end) of an object."""
  return bytes(retried(path, lambda: client(path).cat_file(str(path), start=start, end=end)))


def matching(pattern: Location) -> list[str]:
  """Returns the paths of the objects that match a glob, sorted."""
  scheme = str(pattern).partition("://")[0]
  found = retried(pattern, lambda: client(pattern).glob(str(pattern), detail=True))
  return sorted(f"{scheme}://{name}" for name, entry in found.items() if entry["type"] == "file")
