# SPDX-License-Identifier: Apache-2.0
"""Arrays in safetensors files, one or several with an index, as Hugging Face lays them out.

A file is the length of its header (8 bytes), the header (JSON: dtype, shape and place of each array),
and the arrays end to end. What a header says is checked here before the library sees it. Files are
written here too, array by array: the library's `save_file` wants all of a file's arrays in memory.
"""

from __future__ import annotations

import functools
import json
import math
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from switch_t5.errors import CheckpointError
from switch_t5.interop import untrusted
from switch_t5.interop.checkpoint import Progress, StoredArray

ONE_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_SHARD_BYTES = 5_000_000_000  # Hugging Face's "5GB"
_MAX_HEADER_BYTES = 32 << 20
_MAX_NAME = 500  # characters
_METADATA = "__metadata__"
_PREFIX = 8  # bytes of the header's length
_DTYPES = {
  "F64": "float64",
  "F32": "float32",
  "F16": "float16",
  "BF16": "bfloat16",
  "I64": "int64",
  "I32": "int32",
}
_CODES = {name: code for code, name in _DTYPES.items()}


def open_files(path: pathlib.Path) -> dict[str, StoredArray]:
  """Opens a safetensors file, or the one or several of a folder.

  Args:
    path: a file, or a folder with `model.safetensors` or with `model.safetensors.index.json` and the
      files that it names.

  Returns:
    The arrays by name, those of a file side by side.

  Raises:
    CheckpointError: if a file is missing or cut short, or says what cannot be.
  """
  if not path.is_dir():
    return _open_file(path)
  single, index = path / ONE_FILE, path / INDEX
  if single.exists() and index.exists():
    raise untrusted.refuse(
      path,
      f"both {ONE_FILE} and {INDEX}",
      rule="the arrays are in one file, or in those that an index names",
      remedy="remove the one that is left from before",
    )
  if index.exists():
    return _open_shards(path, untrusted.read_json(untrusted.contained(path, INDEX, path)))
  return _open_file(untrusted.contained(path, ONE_FILE, path))


def write_files(
  arrays: Mapping[str, StoredArray],
  folder: pathlib.Path,
  progress: Progress,
  max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
  """Writes `model.safetensors`, or, where that gets too large, several files and their index.

  Where an array is placed follows from the names and shapes alone; they are read and written in the
  order of `arrays`, one in memory at a time.

  Args:
    arrays: by name.
    folder: where the files go.
    progress: see `checkpoint`.
    max_shard_bytes: of the arrays of a file, unless a single one is larger.
  """
  for name, array in arrays.items():
    if array.dtype.name not in _CODES:
      raise CheckpointError(
        "The array has a dtype that is not written to safetensors files.",
        value=f"{name}: {array}",
        rule=f"one of {', '.join(_CODES)}",
      )
  shards = list(_shards(arrays, max_shard_bytes))
  places: dict[str, int] = {}
  weight_map: dict[str, str] = {}
  for number, shard in enumerate(shards, start=1):
    file = ONE_FILE if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
    places |= _write_header(folder / file, {name: arrays[name] for name in shard})
    weight_map |= dict.fromkeys(shard, file)
  for name, array in arrays.items():
    with (folder / weight_map[name]).open("r+b") as stream:
      stream.seek(places[name])
      # As bytes: Python's buffers know no bfloat16.
      stream.write(np.ascontiguousarray(array.read()).reshape(-1).view(np.uint8).data)
    progress(name, array.nbytes)
  if len(shards) > 1:
    total = sum(array.nbytes for array in arrays.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _open_shards(folder: pathlib.Path, index: Mapping[str, Any]) -> dict[str, StoredArray]:
  where = folder / INDEX
  weight_map = index.get("weight_map")
  if not isinstance(weight_map, dict) or not weight_map:
    raise untrusted.refuse(where, "it has no weight_map")
  named: dict[str, set[str]] = {}
  for name, file in weight_map.items():
    _check_name(name, where)
    if not isinstance(file, str) or "/" in file or not _is_printable(file):
      said = ascii(file)[:80]
      raise untrusted.refuse(where, f"names the file {said}", rule="a file beside the index")
    named.setdefault(file, set()).add(name)
  arrays: dict[str, StoredArray] = {}
  for file, names in sorted(named.items()):
    found = _open_file(untrusted.contained(folder, file, where))
    for name in sorted(names ^ found.keys()):
      why = "is not in" if name in names else "is, against the index, in"
      raise untrusted.refuse(where, f"{name} {why} {file}")
    arrays |= found
  return arrays


def _open_file(path: pathlib.Path) -> dict[str, StoredArray]:
  prefix = untrusted.read_bytes(path, _PREFIX)
  length, size = int.from_bytes(prefix, "little"), path.stat().st_size
  if len(prefix) < _PREFIX or length > min(_MAX_HEADER_BYTES, size - _PREFIX):
    raise untrusted.refuse(
      path,
      f"a header of {length:,} bytes in a file of {size:,}",
      rule=f"the header is in the file and has at most {_MAX_HEADER_BYTES:,} bytes",
    )
  raw = untrusted.read_bytes(path, _PREFIX + length)[_PREFIX:]
  entries = untrusted.parse_json(raw, path)
  entries.pop(_METADATA, None)
  for name in entries:
    _check_name(name, path)
  described = {name: _check_entry(entry, f"{path}: {name}") for name, entry in entries.items()}
  _check_places(described, size - _PREFIX - length, path)
  try:
    # What the library would refuse. Read without it: the pages of its memory map stay in memory.
    with safe_open(path, framework="numpy"):
      pass
  except (SafetensorError, OSError) as error:
    raise untrusted.refuse(path, str(error)) from error
  first = _PREFIX + length
  return {
    name: StoredArray(
      shape, dtype, functools.partial(_read, path, name, first + begin, shape, dtype)
    )
    for name, (shape, dtype, begin, _) in described.items()
  }


def _check_name(name: str, where: object) -> None:
  """Raises for a name that messages cannot show."""
  if not _is_printable(name):
    raise untrusted.refuse(
      where,
      f"an array called {ascii(name)[:80]}",
      rule=f"names are printable, of at most {_MAX_NAME} characters",
    )


def _is_printable(name: str) -> bool:
  return name.isprintable() and len(name) <= _MAX_NAME


_Described = tuple[tuple[int, ...], np.dtype, int, int]


def _check_entry(entry: object, where: str) -> _Described:
  """Returns shape, dtype, begin and end of an array."""
  if not isinstance(entry, dict):
    raise untrusted.refuse(where, "not an object")
  code, offsets = entry.get("dtype"), entry.get("data_offsets")
  if not isinstance(code, str) or code not in _DTYPES:
    raise untrusted.refuse(where, f"dtype {repr(code)[:80]}", rule=f"one of {', '.join(_DTYPES)}")
  dtype = untrusted.check_dtype(_DTYPES[code], where)
  shape = untrusted.check_shape(entry.get("shape"), where, dtype)
  if not isinstance(offsets, list) or [type(place) for place in offsets] != [int, int]:
    raise untrusted.refuse(where, f"data_offsets {str(offsets)[:80]}", rule="two whole numbers")
  begin, end = offsets
  nbytes = math.prod(shape) * dtype.itemsize
  if end - begin != nbytes:
    raise untrusted.refuse(
      where, f"{end - begin:,} bytes for {dtype.name} of shape {shape}", rule=f"{nbytes:,} bytes"
    )
  return shape, dtype, begin, end


def _check_places(described: Mapping[str, _Described], size: int, path: pathlib.Path) -> None:
  """Raises unless the arrays fill the file, end to end."""
  reached = 0
  for name, (_, _, begin, end) in sorted(described.items(), key=lambda item: item[1][2:]):
    if begin != reached:
      raise untrusted.refuse(
        path,
        f"{name} begins at {begin:,}, and what is before it ends at {reached:,}",
        rule="arrays lie end to end: none overlaps another, and there is no hole",
      )
    reached = end
  if reached != size:
    raise untrusted.refuse(
      path,
      f"arrays of {reached:,} bytes, and {size:,} bytes in the file",
      rule="the file ends with the last array",
      remedy="copy it again, if it was cut short",
    )


def _read(
  path: pathlib.Path, name: str, begin: int, shape: tuple[int, ...], dtype: np.dtype
) -> np.ndarray:
  nbytes = math.prod(shape) * dtype.itemsize
  try:
    data = np.fromfile(path, np.uint8, nbytes, offset=begin)
  except OSError as error:
    raise untrusted.refuse(path, f"{name}: {error.strerror}") from error
  if data.nbytes != nbytes:
    raise untrusted.refuse(path, f"{name}: the file has become shorter")
  return data.view(dtype).reshape(shape)


def _shards(arrays: Mapping[str, StoredArray], most: int) -> Iterator[list[str]]:
  """Yields the names of each file; there is one, if only an empty one."""
  shard: list[str] = []
  size = 0
  for name in sorted(arrays):
    if shard and size + arrays[name].nbytes > most:
      yield shard
      shard, size = [], 0
    shard.append(name)
    size += arrays[name].nbytes
  yield shard


def _write_header(path: pathlib.Path, arrays: Mapping[str, StoredArray]) -> dict[str, int]:
  """Makes the file, its arrays still zeros, and returns where in it each array begins."""
  # Wide dtypes first keeps every array aligned, as the library has it.
  names: Iterable[str] = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
  header: dict[str, Any] = {_METADATA: {"format": "pt"}}  # Hugging Face's loaders ask for it
  begin = 0
  for name in names:
    array = arrays[name]
    end = begin + array.nbytes
    header[name] = {
      "dtype": _CODES[array.dtype.name],
      "shape": list(array.shape),
      "data_offsets": [begin, end],
    }
    begin = end
  raw = json.dumps(header, separators=(",", ":")).encode()
  raw += b" " * (-len(raw) % _PREFIX)
  with path.open("wb") as stream:
    stream.write(len(raw).to_bytes(_PREFIX, "little") + raw)
    stream.truncate(_PREFIX + len(raw) + begin)
  first = _PREFIX + len(raw)
  return {name: first + header[name]["data_offsets"][0] for name in names}
