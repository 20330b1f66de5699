# SPDX-License-Identifier: Apache-2.0
"""T5X's checkpoints, written byte by byte from the specifications of msgpack, Flax and zarr.

Independent of what reads them: no library of msgpack, zarr or Flax, nothing of switch_t5.
"""

from __future__ import annotations

import gzip
import itertools
import json
import pathlib
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import zstandard

RNG = np.random.default_rng(0)
GZIP, ZSTD = {"id": "gzip", "level": 1}, {"id": "zstd", "level": 1}
UNUSED = np.zeros(1, np.float32)


def normal(*shape: int, dtype: Any = np.float32) -> np.ndarray:
  """Returns random numbers."""
  return RNG.normal(scale=9, size=shape).astype(dtype)


# As T5X has it, though of no model: a factored kernel, a scale, an expert's kernel.
TREE = {
  "target": {
    "encoder": {
      "kernel": normal(6, 8, dtype=ml_dtypes.bfloat16),
      "scale": normal(5),
      "wi": normal(3, 5, 7),
    }
  },
  "state": {
    "step": np.int32(1234),
    "param_states": {
      "encoder": {
        "kernel": {"m": UNUSED, "v": UNUSED, "v_row": normal(6), "v_col": normal(8)},
        "scale": {"m": UNUSED, "v": normal(5), "v_row": UNUSED, "v_col": UNUSED},
        "wi": {"m": UNUSED, "v": UNUSED, "v_row": normal(3, 5), "v_col": normal(3, 7)},
      }
    },
  },
}
KERNEL = "target/encoder/kernel"
CHUNKS = {  # the second chunk of each axis goes beyond the edge
  KERNEL: (4, 5),
  "target/encoder/scale": (3,),
  "target/encoder/wi": (2, 3, 7),
  "state/param_states/encoder/scale/v": (5,),
}


class Raw(bytes):
  """msgpack that is put into a file as it is."""


def packed(node: Any) -> bytes:
  """Returns a tree in msgpack; arrays and numpy's scalars as Flax packs them."""
  match node:
    case Raw():
      return node
    case None:
      return b"\xc0"
    case bool():
      return b"\xc3" if node else b"\xc2"
    case int():
      return struct.pack("B", node) if 0 <= node < 128 else b"\xd3" + struct.pack(">q", node)
    case float():
      return b"\xcb" + struct.pack(">d", node)
    case str():
      return _head(len(node.encode()), (0xA0, 32), (0xD9, 0xDA, 0xDB)) + node.encode()
    case list() | tuple():
      return _head(len(node), (0x90, 16), (None, 0xDC, 0xDD)) + b"".join(map(packed, node))
    case dict():
      entries = (packed(key) + packed(value) for key, value in node.items())
      return _head(len(node), (0x80, 16), (None, 0xDE, 0xDF)) + b"".join(entries)
    case np.ndarray() | np.generic():
      kind = 1 if isinstance(node, np.ndarray) else 3
      return extension(kind, node.shape, node.dtype.name, node.tobytes())
  raise TypeError(type(node))


def extension(kind: int, shape: Any, dtype: Any, data: bytes) -> Raw:
  """Returns an array with any type, shape, dtype and bytes, which may not agree."""
  content = b"\x93" + packed(shape) + packed(dtype)
  content += _head(len(data), None, (0xC4, 0xC5, 0xC6)) + data
  fixed = {1: 0xD4, 2: 0xD5, 4: 0xD6, 8: 0xD7, 16: 0xD8}.get(len(content))
  head = bytes([fixed]) if fixed else _head(len(content), None, (0xC7, 0xC8, 0xC9))
  return Raw(head + struct.pack("b", kind) + content)


def in_pieces(array: np.ndarray, size: int) -> dict[str, Any]:
  """Returns an array as Flax packs one of more than 2**30 bytes: pieces of `size` numbers."""
  flat = array.reshape(-1)
  pieces = [flat[start : start + size] for start in range(0, flat.size, size)]
  return {
    "__msgpack_chunked_array__": True,
    "shape": {str(i): n for i, n in enumerate(array.shape)},
    "chunks": {str(i): piece for i, piece in enumerate(pieces)},
  }


def write_zarr(
  folder: pathlib.Path, array: np.ndarray, chunks: tuple[int, ...], compressor: Any = GZIP
) -> None:
  """Writes an array in zarr's format 2; what lies beyond its edge in a chunk is 1s."""
  folder.mkdir(parents=True)
  kind = array.dtype.name if array.dtype.name == "bfloat16" else array.dtype.str
  (folder / ".zarray").write_text(
    json.dumps(
      {
        **{"zarr_format": 2, "shape": array.shape, "chunks": chunks, "dtype": kind, "order": "C"},
        **{"fill_value": None, "filters": None, "compressor": compressor},
        "dimension_separator": ".",
      }
    )
  )
  grid = [range(-(-size // chunk)) for size, chunk in zip(array.shape, chunks, strict=True)]
  for place in itertools.product(*grid):
    whole = np.ones(chunks, array.dtype)
    part = array[tuple(slice(i * n, (i + 1) * n) for i, n in zip(place, chunks, strict=True))]
    whole[tuple(map(slice, part.shape))] = part
    key = ".".join(map(str, place)) or "0"
    (folder / key).write_bytes(compressed(whole.tobytes(), compressor))


def compressed(data: bytes, compressor: Mapping[str, Any] | None) -> bytes:
  """Returns a chunk's bytes in the file."""
  if compressor is None:
    return data
  if compressor["id"] == "gzip":
    return gzip.compress(data, compressor["level"])
  return zstandard.ZstdCompressor(level=compressor["level"]).compress(data)


def spec(
  folder: str, array: np.ndarray, chunks: tuple[int, ...], kvstore: Mapping[str, str] | None = None
) -> dict[str, Any]:
  """Returns the TensorStore spec that T5X puts in place of an array."""
  return {
    "driver": "zarr",
    "dtype": array.dtype.name,
    "kvstore": {**(kvstore or {"driver": "file"}), "path": f"{folder}/"},
    "metadata": {"shape": list(array.shape), "chunks": list(chunks), "compressor": GZIP},
  }


def write_native(
  folder: pathlib.Path,
  tree: Mapping[str, Any],
  *,
  chunks: Mapping[str, tuple[int, ...]],
  compressor: Any = GZIP,
  kvstore: Mapping[str, str] | None = None,
) -> None:
  """Writes a step of T5X's own format.

  Args:
    tree: nested: target, state.
    chunks: of the arrays that have folders, by their `/`-joined path; others are inline.
    compressor: of the folders.
    kvstore: driver, and bucket, in the specs.
  """
  folder.mkdir(exist_ok=True)

  def outside(path: str, array: np.ndarray) -> dict[str, Any]:
    name = path.replace("/", ".")
    write_zarr(folder / name, array, chunks[path], compressor)
    return spec(name, array, chunks[path], kvstore)

  optimizer = _replaced(tree, chunks, outside)
  (folder / "checkpoint").write_bytes(packed({"version": 3, "optimizer": optimizer}))


def write_example(folder: pathlib.Path, **changes: Any) -> pathlib.Path:
  """Writes TREE and returns its folder; `changes` are arguments of `write_native`."""
  write_native(folder, TREE, **{"chunks": CHUNKS} | changes)
  return folder


def write_orbax(
  folder: pathlib.Path, tree: Mapping[str, Any], *, chunks: Mapping[str, tuple[int, ...]]
) -> None:
  """Writes a step as Orbax did before OCDBT."""
  folder.mkdir(exist_ok=True)

  def outside(path: str, array: np.ndarray) -> str:
    name = path.replace("/", ".")
    write_zarr(folder / name, array, chunks[path], ZSTD)
    return f"PLACEHOLDER://{name}"

  (folder / "checkpoint").write_bytes(packed(_replaced(tree, chunks, outside)))


def respec(folder: pathlib.Path, change: Callable[[dict[str, Any]], Any]) -> None:
  """Changes what stands for the kernel in a folder of `write_example`."""

  def changed(path: str, array: np.ndarray) -> Any:
    there = spec(path.replace("/", "."), array, CHUNKS[path])
    return change(there) if path == KERNEL else there

  optimizer = _replaced(TREE, CHUNKS, changed)
  (folder / "checkpoint").write_bytes(packed({"version": 3, "optimizer": optimizer}))


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
  """Yields the leaves of nested dictionaries by their `/`-joined path."""
  for key, node in tree.items():
    if isinstance(node, Mapping):
      yield from leaves(node, f"{prefix}{key}/")
    else:
      yield prefix + key, node


def _replaced(tree: Mapping[str, Any], paths: Any, replace: Any, prefix: str = "") -> Any:
  """Returns a tree with `replace(path, leaf)` in place of the leaves at `paths`."""
  return {
    key: _replaced(node, paths, replace, f"{prefix}{key}/")
    if isinstance(node, Mapping)
    else replace(prefix + key, node)
    if prefix + key in paths
    else node
    for key, node in tree.items()
  }


def _head(length: int, short: tuple[int, int] | None, longer: tuple[int | None, ...]) -> bytes:
  """Returns the first bytes of what has a length: those of the shortest form it fits."""
  if short is not None and length < short[1]:
    return bytes([short[0] + length])
  for first, form in zip(longer, "BHI", strict=True):
    if first is not None and length < 1 << 8 * struct.calcsize(f">{form}"):
      return bytes([first]) + struct.pack(f">{form}", length)
  raise ValueError(length)
