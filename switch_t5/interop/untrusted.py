# SPDX-License-Identifier: Apache-2.0
"""What is asked of a checkpoint from elsewhere before anything in it is believed.

Sizes, counts and depths are capped before memory is taken; paths stay in the checkpoint's folder and
lead through no link; nothing is executed. Each refusal is a CheckpointError that names the file.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

from switch_t5.checkpoint import json_limits
from switch_t5.errors import CheckpointError
from switch_t5.storage import files, objects, transfers
from switch_t5.storage.location import Location, is_remote

MAX_AXES = 8
MAX_ARRAY_BYTES = 1 << 42  # a stacked Switch-C kernel has 1.6 TB
MAX_FILES = 1_000_000
DTYPES = {
  np.dtype(kind).name: np.dtype(kind)
  for kind in (
    ml_dtypes.bfloat16,
    *(np.float16, np.float32, np.float64),
    *(np.int32, np.int64, np.uint32),
  )
}
FLOATS = ("float32", "bfloat16", "float16", "float64")


def refuse(path: object, why: str, *, rule: str | None = None, remedy: str | None = None):
  """Returns the error for a checkpoint that cannot be believed; `path` may also name an array."""
  return CheckpointError(
    "The checkpoint cannot be read.", value=f"{path}: {why}", rule=rule, remedy=remedy
  )


def parse_json(raw: bytes, path: object) -> dict[str, Any]:
  """Returns the JSON object in `raw`; `path` is its file, for the message."""
  if json_limits.is_too_large(raw):
    raise refuse(
      path,
      f"JSON of {len(raw):,} bytes and some {json_limits.count_values(raw):,} values",
      rule=f"at most {json_limits.MAX_BYTES:,} bytes and {json_limits.MAX_VALUES:,} values",
    )
  try:
    parsed = json.loads(raw)
  except (ValueError, RecursionError) as error:
    raise refuse(path, f"no valid JSON ({error})") from error
  if not isinstance(parsed, dict):
    raise refuse(path, "not a JSON object")
  return parsed


def read_json(path: Location) -> dict[str, Any]:
  """Returns the JSON object in a file."""
  return parse_json(read_bytes(path, json_limits.MAX_BYTES + 1), path)


def read_bytes(path: Location, limit: int) -> bytes:
  """Returns the first `limit` bytes of a regular file."""
  try:
    if is_remote(path):
      short = files.size(path) <= limit
      return objects.read(path) if short else transfers.read_range(path, 0, limit)
    if not path.is_file():  # a pipe would be waited for without end
      raise refuse(path, "not a file")
    with path.open("rb") as file:  # what is asked for is allocated, however short the file
      return file.read(min(limit, os.fstat(file.fileno()).st_size))
  except OSError as error:
    raise refuse(path, str(error.strerror or error)) from error


def walk(folder: Location) -> list[str]:
  """Returns the paths of all files below `folder`, relative to it; refuses links and devices."""
  found: list[str] = []
  if is_remote(folder):
    found += objects.sizes(folder)
    if len(found) > MAX_FILES:
      raise refuse(folder, "too many files", rule=f"at most {MAX_FILES:,}")
    return sorted(found)

  def scan(directory: str, prefix: str) -> None:
    with os.scandir(directory) as entries:
      for entry in entries:
        if entry.is_symlink():
          raise refuse(entry.path, "a link", rule="a checkpoint has its own files and no links")
        if entry.is_dir(follow_symlinks=False):
          scan(entry.path, f"{prefix}{entry.name}/")
        elif entry.is_file(follow_symlinks=False):
          found.append(prefix + entry.name)
        else:
          raise refuse(entry.path, "neither a file nor a folder")
        if len(found) > MAX_FILES:
          raise refuse(folder, "too many files", rule=f"at most {MAX_FILES:,}")

  try:
    scan(str(folder), "")
  except OSError as error:
    raise refuse(error.filename, str(error.strerror)) from error
  except RecursionError:
    raise refuse(folder, "folders within folders without end") from None
  return sorted(found)


def contained(folder: Location, relative: object, where: object) -> Location:
  """Returns the path of what a checkpoint says lies in its folder.

  Args:
    folder: of the checkpoint.
    relative: what stands in the checkpoint: a relative path without `..`.
    where: what says so, for the message.
  """
  text = relative if isinstance(relative, str) else ""
  parts = text.removesuffix("/").split("/")
  if not text.isprintable() or "\\" in text or any(part in ("", ".", "..") for part in parts):
    raise refuse(
      where,
      f"names the path {ascii(relative)[:300]}",
      rule="paths in a checkpoint are relative, and have no . or .. in them",
    )
  path = folder
  for part in parts:
    path = path / part
    try:
      is_link = not is_remote(path) and path.is_symlink()
    except OSError as error:  # a name that is too long
      raise refuse(where, f"names {str(path)[:300]}: {error.strerror}") from error
    if is_link:
      raise refuse(where, f"{path} is a link", rule="a checkpoint has its own files and no links")
  return path


def check_dtype(name: object, where: object) -> np.dtype:
  """Returns the dtype of that numpy name."""
  if not isinstance(name, str) or name not in DTYPES:
    raise refuse(where, f"dtype {name!r}", rule=f"one of {', '.join(DTYPES)}")
  return DTYPES[name]


def check_shape(shape: object, where: object, dtype: np.dtype) -> tuple[int, ...]:
  """Returns a shape that an array can have, as whole numbers."""
  if not isinstance(shape, Sequence) or isinstance(shape, str) or len(shape) > MAX_AXES:
    raise refuse(where, f"shape {str(shape)[:80]}", rule=f"at most {MAX_AXES} axes")
  for size in shape:
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
      raise refuse(where, f"shape {str(shape)[:80]}", rule="sizes are whole numbers, at least 1")
  if math.prod(shape) * dtype.itemsize > MAX_ARRAY_BYTES:
    raise refuse(where, f"shape {str(shape)[:80]}", rule=f"at most {MAX_ARRAY_BYTES:,} bytes")
  return tuple(shape)
