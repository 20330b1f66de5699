# SPDX-License-Identifier: Apache-2.0
"""Arrays in zarr's format 2, as T5X and Orbax write them: one chunk after the other, no more.

TensorStore reads them too, but puts zeros where a chunk is missing and decompresses whatever a chunk
claims to hold. Here every chunk must be there, none beside them, and each decompresses to exactly
the bytes of its shape or is an error before it takes more.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
import pathlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorstore as ts
import zstandard

from switch_t5.interop import untrusted
from switch_t5.interop.checkpoint import StoredArray
from switch_t5.storage import kvstore, objects
from switch_t5.storage.location import Location, is_remote
from switch_t5.storage.retries import tensorstore_context

METADATA = ".zarray"
MAX_CHUNK_BYTES = 1 << 34
_MAX_METADATA_BYTES = 1 << 16
_MAX_MANIFEST_BYTES = 64 << 20
_MAX_HOLES = 256 << 20  # bytes of a file that were never written
_MAX_OVERHEAD = 1 << 12  # of a compressor, where nothing can be compressed
_MAX_ZSTD_WINDOW = 1 << 27
_DTYPES = {"<f2": "float16", "<f4": "float32", "<f8": "float64", "<i4": "int32", "<i8": "int64"}

Get = Callable[[str, int], bytes]


def open_folder(folder: Location, name: str) -> StoredArray:
  """Opens an array that is a folder of files.

  Args:
    folder: of `.zarray` and the chunks.
    name: of the array, for messages.
  """
  if not is_remote(folder) and not folder.is_dir():
    raise untrusted.refuse(name, f"its folder {folder.name} is missing")
  names = untrusted.walk(folder)

  def get(key: str, limit: int) -> bytes:
    return untrusted.read_bytes(folder / key, limit)

  return open_array(name, names, get)


def open_ocdbt(folder: Location) -> dict[str, StoredArray]:
  """Opens all arrays of an OCDBT database, by their name in it, e.g. `target.decoder.bias`."""
  check_files(folder)
  try:
    context = ts.Context(tensorstore_context())
    spec = {"driver": "ocdbt", "base": place(folder)}
    store = ts.KvStore.open(spec, context=context).result()
    keys = [key.decode("utf-8", "backslashreplace") for key in store.list().result()]
  except (ValueError, OSError) as error:
    raise untrusted.refuse(folder, _first_line(error)) from error
  files: dict[str, list[str]] = {}
  for key in keys:
    array, _, file = key.rpartition("/")
    files.setdefault(array, []).append(file)

  def get(array: str, file: str, limit: int) -> bytes:
    try:
      return store.read(f"{array}/{file}").result().value[:limit]
    except (ValueError, OSError) as error:
      raise untrusted.refuse(f"{folder}: {array}", _first_line(error)) from error

  return {
    array: open_array(f"{folder}: {array}", files[array], functools.partial(get, array))
    for array in files
  }


def place(folder: Location) -> dict[str, Any]:
  """Returns where a folder is, for TensorStore."""
  if not is_remote(folder):
    return {"driver": "file", "path": f"{folder.absolute()}/"}
  return kvstore.spec(f"{folder}/")


def check_files(folder: Location) -> None:
  """Refuses a database with links, or with a file that is read without end or takes GBs of memory.

  TensorStore reads manifests, and nodes of any length, whole; keys that lead out of the folder it
  refuses itself.
  """
  if is_remote(folder):
    for name, size in objects.sizes(folder).items():
      _check_size(folder / name, size)
    return
  for name in untrusted.walk(pathlib.Path(folder)):
    path = pathlib.Path(folder / name)
    try:
      with path.open("rb") as file:
        status = os.fstat(file.fileno())
        holes = status.st_size - 512 * status.st_blocks
        # Some file systems count no blocks; they know of no holes either.
        if holes > _MAX_HOLES and os.lseek(file.fileno(), 0, os.SEEK_HOLE) < status.st_size:
          raise untrusted.refuse(path, f"{holes:,} of its {status.st_size:,} bytes are not there")
    except OSError as error:
      raise untrusted.refuse(path, str(error.strerror)) from error
    _check_size(path, status.st_size)


def _check_size(path: Location, size: int) -> None:
  if path.name.startswith("manifest.") and size > _MAX_MANIFEST_BYTES:
    raise untrusted.refuse(path, f"{size:,} bytes", rule=f"at most {_MAX_MANIFEST_BYTES:,} bytes")


def open_array(name: str, keys: Iterable[str], get: Get) -> StoredArray:
  """Opens one array; its chunks are read later, by `get(key, limit)`.

  Args:
    name: for messages.
    keys: what is there: `.zarray` and one key for each chunk, `1.0` for the second along axis 0.
    get: returns the bytes of a key, at most `limit` of them.

  Raises:
    CheckpointError: if the metadata is not believed or a chunk is missing.
  """
  present = set(keys)
  if METADATA not in present:
    raise untrusted.refuse(name, f"{METADATA} is missing")
  raw = get(METADATA, _MAX_METADATA_BYTES + 1)
  if len(raw) > _MAX_METADATA_BYTES:
    raise untrusted.refuse(name, f"{METADATA} has more than {_MAX_METADATA_BYTES:,} bytes")
  metadata = untrusted.parse_json(raw, f"{name}/{METADATA}")
  dtype = _check_kind(metadata, name)
  shape = untrusted.check_shape(metadata.get("shape"), name, dtype)
  chunks = untrusted.check_shape(metadata.get("chunks"), name, dtype)
  if len(chunks) != len(shape):
    raise untrusted.refuse(name, f"chunks {chunks} of shape {shape}")
  if math.prod(chunks) * dtype.itemsize > MAX_CHUNK_BYTES:
    raise untrusted.refuse(name, f"chunks {chunks}", rule=f"at most {MAX_CHUNK_BYTES:,} bytes")
  decompress = _decompressor(metadata.get("compressor"), name)
  grid = [-(-size // chunk) for size, chunk in zip(shape, chunks, strict=True)]
  _check_chunks(name, grid, present - {METADATA})

  def read_chunk(place: tuple[int, ...]) -> np.ndarray:
    key = _key(place)
    size = math.prod(chunks) * dtype.itemsize
    try:
      data = decompress(get(key, size + size // 8 + _MAX_OVERHEAD), size)
    except (zlib.error, zstandard.ZstdError) as error:
      raise untrusted.refuse(name, f"chunk {key}: {error}") from error
    if data is None or len(data) != size:
      raise untrusted.refuse(name, f"chunk {key} does not hold {size:,} bytes")
    return np.frombuffer(data, dtype).reshape(chunks)

  def read() -> np.ndarray:
    if chunks == shape:
      return read_chunk((0,) * len(shape))
    array = np.empty(shape, dtype)
    for place in _places(grid):
      region = tuple(slice(i * n, (i + 1) * n) for i, n in zip(place, chunks, strict=True))
      target = array[region]
      target[...] = read_chunk(place)[tuple(map(slice, target.shape))]
    return array

  return StoredArray(shape, dtype, read)


def _check_kind(metadata: Mapping[str, object], name: str) -> np.dtype:
  wanted = {"zarr_format": 2, "order": "C", "filters": None}
  for field, value in wanted.items():
    if metadata.get(field) != value:
      raise untrusted.refuse(
        name, f"{METADATA} has {field} {metadata.get(field)!r}", rule=f"{field} is {value!r}"
      )
  if metadata.get("dimension_separator", ".") != ".":
    raise untrusted.refuse(name, f"{METADATA} has a dimension_separator that is not '.'")
  stored = metadata.get("dtype")
  return untrusted.check_dtype(_DTYPES.get(stored, stored) if isinstance(stored, str) else "", name)


def _check_chunks(name: str, grid: list[int], present: set[str]) -> None:
  """Refuses an array with a chunk missing, or with files that are none of its chunks."""
  count = math.prod(grid)
  # At most one more than there are: a lie about the shape is not counted to its end.
  for place in itertools.islice(_places(grid), len(present) + 1):
    if _key(place) not in present:
      raise untrusted.refuse(
        name,
        f"chunk {_key(place)} is missing: {len(present):,} of {count:,} chunks are there",
        remedy="copy the checkpoint again; other readers would take zeros for it",
      )
  if len(present) != count:
    raise untrusted.refuse(name, f"{len(present):,} chunks, where its shape has {count:,}")


def _places(grid: Sequence[int]) -> Iterator[tuple[int, ...]]:
  """Yields the places in a grid, last axis first; `itertools.product` would make a list of each axis."""
  if not grid:
    yield ()
    return
  for i in range(grid[0]):
    for rest in _places(grid[1:]):
      yield i, *rest


def _key(place: tuple[int, ...]) -> str:
  return ".".join(map(str, place)) or "0"


def _decompressor(compressor: object, name: str) -> Callable[[bytes, int], bytes | None]:
  """Returns a function of a chunk and its size; it gives None for one that goes on beyond."""
  kind = compressor.get("id") if isinstance(compressor, Mapping) else compressor
  if kind is None:
    return lambda raw, size: raw
  if kind == "zstd":
    return _decompress_zstd
  if kind in ("gzip", "zlib"):
    return functools.partial(_decompress_zlib, 31 if kind == "gzip" else 15)
  raise untrusted.refuse(name, f"compressor {kind!r}", rule="gzip, zlib, zstd or null")


def _decompress_zlib(wbits: int, raw: bytes, size: int) -> bytes | None:
  stream = zlib.decompressobj(wbits=wbits)
  data = stream.decompress(raw, size + 1)
  # The checksum stands after the data; it is read only when there is room for more.
  return data if stream.eof and not stream.unused_data else None


def _decompress_zstd(raw: bytes, size: int) -> bytes | None:
  decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_ZSTD_WINDOW)
  with decompressor.stream_reader(raw) as stream:
    return stream.read(size + 1)


def _first_line(error: Exception) -> str:
  return str(error).partition("\n")[0][:300]
