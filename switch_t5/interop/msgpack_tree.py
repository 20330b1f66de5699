# SPDX-License-Identifier: Apache-2.0
"""Flax's msgpack files (`flax.serialization`), read without their arrays and written array by array.

Flax decodes a file as a whole, and believes it. Here a scan steps over the arrays' bytes and notes
where they are. Arrays are extension types whose content is msgpack again, `[shape, name of the
dtype, bytes]`; one of more than 2**30 bytes is a dictionary of flat pieces.
"""

from __future__ import annotations

import functools
import math
import mmap
import pathlib
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

import msgpack
import numpy as np

from switch_t5.errors import CheckpointError
from switch_t5.interop import untrusted
from switch_t5.interop.checkpoint import Progress, StoredArray
from switch_t5.storage import files, transfers
from switch_t5.storage.location import Location, is_remote

MAX_INLINE_BYTES = 1 << 30  # Flax's; msgpack's own limit is 2**32
MAX_DEPTH = 32
MAX_NODES = 100_000  # T5 XXL with all of Adafactor's state has some 30,000
MAX_TEXT = 512
_ARRAY_NODES = 5  # an array takes as long as so many values
_NDARRAY, _SCALAR = 1, 3
_CHUNKED = "__msgpack_chunked_array__"


def read_tree(path: Location) -> dict[str, Any]:
  """Returns a file's nested dictionaries, with a StoredArray for each array.

  Other leaves are None, bool, int, float, str and lists of them, as Python has them.

  Raises:
    CheckpointError: if the file is not what Flax writes, or larger in anything than any model's.
  """
  if not files.is_file(path):  # a pipe would be waited for without end
    raise untrusted.refuse(path, "not a file")
  if not files.size(path):
    raise untrusted.refuse(path, "an empty file")
  if is_remote(path):
    return _Scan(path, files.read(path)).root()
  try:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
      return _Scan(path, data).root()
  except OSError as error:
    raise untrusted.refuse(path, str(error.strerror)) from error


def write_tree(path: pathlib.Path, tree: Mapping[str, Any], progress: Progress) -> None:
  """Writes nested dictionaries as Flax would; each StoredArray is read when its turn comes."""
  with path.open("wb") as file:
    _write_node(file, "", tree, progress)


def _heads() -> dict[int, tuple[str, str, Any]]:
  """Returns what a first byte means: the kind, the format of a number that follows, or the number.

  The number is the value itself, or the length of what is of another kind.
  """
  heads: dict[int, tuple[str, str, Any]] = {i: ("value", "", i) for i in range(0x80)}
  heads |= {0xE0 + i: ("value", "", i - 0x20) for i in range(0x20)}
  heads |= {byte: ("value", "", v) for byte, v in ((0xC0, None), (0xC2, False), (0xC3, True))}
  heads |= {0x80 + i: ("map", "", i) for i in range(16)}
  heads |= {0x90 + i: ("list", "", i) for i in range(16)}
  heads |= {0xA0 + i: ("text", "", i) for i in range(32)}
  heads |= {0xD4 + i: ("ext", "", 1 << i) for i in range(5)}
  for first, kind, formats in (
    *((0xC4, "bytes", "BHI"), (0xC7, "ext", "BHI"), (0xCA, "value", "fdBHIQbhiq")),
    *((0xD9, "text", "BHI"), (0xDC, "list", "HI"), (0xDE, "map", "HI")),
  ):
    heads |= {first + i: (kind, f">{letter}", None) for i, letter in enumerate(formats)}
  return heads


_HEADS = _heads()


class _Scan:
  """One pass over a file."""

  def __init__(self, path: Location, data: mmap.mmap | bytes):
    self._path, self._data = path, data
    self._at = self._nodes = 0
    self._keys: list[str] = []  # where the scan is in the tree

  def root(self) -> dict[str, Any]:
    tree = self._node()
    if not isinstance(tree, dict):
      raise self._refuse("not a dictionary", "T5X's file is msgpack, a dictionary of all arrays")
    if self._at != len(self._data):
      raise self._refuse(f"{len(self._data) - self._at:,} bytes after its end")
    return tree

  def _refuse(self, why: str, rule: str | None = None) -> CheckpointError:
    return untrusted.refuse(self._where(), why, rule=rule)

  def _where(self) -> str:
    """Returns the file, and where in it the scan is, for messages."""
    keys = "/".join(self._keys)[:300]
    return f"{self._path}: {keys}" if keys else str(self._path)

  def _header(self) -> tuple[str, Any]:
    """Returns the kind of what comes, and its value or its length, which the file has room for."""
    data = self._data
    if self._at >= len(data):
      raise self._refuse("the file ends too early")
    kind, form, number = _HEADS.get(data[self._at], ("", "", None))
    self._at += 1
    if not kind:
      raise self._refuse("no valid msgpack")
    if form:
      if self._at + struct.calcsize(form) > len(data):
        raise self._refuse("the file ends too early")
      (number,) = struct.unpack_from(form, data, self._at)
      self._at += struct.calcsize(form)
    if kind != "value" and number * (2 if kind == "map" else 1) > len(data) - self._at:
      raise self._refuse(f"{kind} of {number:,} where the file has {len(data) - self._at:,} bytes")
    return kind, number

  def _expect(self, kind: str) -> Any:
    found, number = self._header()
    if found != kind:
      raise self._refuse(f"{found} where there must be {kind}")
    return number

  def _node(self) -> Any:
    kind, number = self._header()
    if kind != "value" and kind != "text":
      self._nodes += _ARRAY_NODES if kind == "ext" else number
    if len(self._keys) > MAX_DEPTH or self._nodes > MAX_NODES:
      raise self._refuse("too large", f"at most {MAX_DEPTH} levels and {MAX_NODES:,} values")
    match kind:
      case "value":
        return number
      case "text":
        return self._text(number)
      case "map":
        return self._map(number)
      case "list":
        self._keys.append("*")
        items = [self._node() for _ in range(number)]
        self._keys.pop()
        return items
      case "ext":
        return self._array(number)
    raise self._refuse("bytes that are no array")

  def _text(self, length: int) -> str:
    if length > MAX_TEXT:
      raise self._refuse(f"text of {length:,} bytes", f"at most {MAX_TEXT:,}")
    self._at += length
    try:
      return self._data[self._at - length : self._at].decode()
    except UnicodeDecodeError as error:
      raise self._refuse("text that is not UTF-8") from error

  def _map(self, length: int) -> Any:
    tree: dict[str, Any] = {}
    for _ in range(length):
      key = self._text(self._expect("text"))
      if not key or "/" in key or not key.isprintable():
        raise self._refuse(f"the key {key[:80]!r}", "keys are printable, without /, and not empty")
      if key in tree:
        raise self._refuse(f"the key {key[:80]!r} twice")
      self._keys.append(key)
      tree[key] = self._node()
      self._keys.pop()
    return self._joined(tree) if _CHUNKED in tree else tree

  def _array(self, length: int) -> StoredArray:
    """Steps over an array, or a numpy scalar, which becomes an array of shape ()."""
    (kind,) = self._data[self._at : self._at + 1] or (None,)
    self._at += 1
    end = self._at + length
    if kind not in (_NDARRAY, _SCALAR):
      raise self._refuse(f"extension type {kind}", "arrays (1) and numpy's scalars (3)")
    if self._expect("list") != 3:
      raise self._refuse("an array that is not [shape, dtype, bytes]")
    axes = self._expect("list")
    sizes = [self._expect("value") for _ in range(min(axes, untrusted.MAX_AXES + 1))]
    where = self._where()
    dtype = untrusted.check_dtype(self._text(self._expect("text")), where)
    shape = untrusted.check_shape(sizes, where, dtype)
    size = self._expect("bytes")
    if size != math.prod(shape) * dtype.itemsize or self._at + size != end:
      raise self._refuse(f"{size:,} bytes for {dtype.name} of shape {shape}")
    if kind == _SCALAR and shape:
      raise self._refuse(f"a scalar of shape {shape}")
    read = functools.partial(_read_array, self._path, self._at, shape, dtype, where)
    self._at = end
    return StoredArray(shape, dtype, read)

  def _joined(self, tree: dict[str, Any]) -> StoredArray:
    """Returns the array that is stored as a dictionary of flat pieces."""
    if tree.keys() != {_CHUNKED, "shape", "chunks"}:
      raise self._refuse(f"an array in pieces with {', '.join(tree)[:80]}")
    sizes, pieces = self._numbered(tree["shape"]), self._numbered(tree["chunks"])
    dtypes = {piece.dtype if isinstance(piece, StoredArray) else None for piece in pieces}
    dtype = dtypes.pop() if len(dtypes) == 1 else None
    if dtype is None or any(len(piece.shape) != 1 for piece in pieces):
      raise self._refuse("pieces that are not flat arrays of one dtype")
    shape = untrusted.check_shape(sizes, self._where(), dtype)
    total = sum(piece.shape[0] for piece in pieces)
    if total != math.prod(shape):
      raise self._refuse(f"pieces of {total:,} numbers for shape {shape}")
    return StoredArray(shape, dtype, functools.partial(_read_pieces, pieces, shape, dtype))

  def _numbered(self, tree: object) -> list[Any]:
    """Returns a sequence, which Flax writes as a dictionary with the keys "0", "1", ..."""
    numbers = [str(i) for i in range(len(tree))] if isinstance(tree, dict) else []
    if not isinstance(tree, dict) or tree.keys() != set(numbers):
      raise self._refuse("an array in pieces that are not numbered")
    return [tree[number] for number in numbers]


def _read_array(
  path: Location, offset: int, shape: tuple[int, ...], dtype: np.dtype, name: str
) -> np.ndarray:
  array = np.empty(shape, dtype)
  if is_remote(path):
    content = transfers.read_range(path, offset, offset + array.nbytes) if array.nbytes else b""
    if len(content) != array.nbytes:
      raise untrusted.refuse(name, "the file has become shorter")
    return np.frombuffer(content, dtype).reshape(shape)
  try:
    with path.open("rb") as file:
      file.seek(offset)
      size = file.readinto(_raw(array))
  except OSError as error:
    raise untrusted.refuse(name, str(error.strerror)) from error
  if size != array.nbytes:
    raise untrusted.refuse(name, "the file has become shorter")
  return array


def _read_pieces(pieces: list[StoredArray], shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
  flat = np.empty(math.prod(shape), dtype)
  start = 0
  for piece in pieces:
    flat[start : start + piece.shape[0]] = piece.read()
    start += piece.shape[0]
  return flat.reshape(shape)


def _write_node(file: BinaryIO, name: str, node: Any, progress: Progress) -> None:
  if isinstance(node, Mapping):
    file.write(msgpack.Packer().pack_map_header(len(node)))
    for key, child in node.items():
      file.write(msgpack.packb(key))
      _write_node(file, f"{name}/{key}" if name else key, child, progress)
  elif isinstance(node, StoredArray):
    _write_array(file, np.asarray(node.read(), order="C"))
    progress(name, node.nbytes)
  else:
    file.write(msgpack.packb(node))


def _write_array(file: BinaryIO, array: np.ndarray) -> None:
  if array.nbytes <= MAX_INLINE_BYTES:
    _write_inline(file, array)
    return
  flat, size = array.reshape(-1), MAX_INLINE_BYTES // array.dtype.itemsize
  pieces = [flat[start : start + size] for start in range(0, flat.size, size)]
  packer = msgpack.Packer()
  file.write(packer.pack_map_header(3) + packer.pack(_CHUNKED) + packer.pack(True))
  file.write(packer.pack("shape") + packer.pack({str(i): n for i, n in enumerate(array.shape)}))
  file.write(packer.pack("chunks") + packer.pack_map_header(len(pieces)))
  for i, piece in enumerate(pieces):
    file.write(packer.pack(str(i)))
    _write_inline(file, piece)


def _write_inline(file: BinaryIO, array: np.ndarray) -> None:
  # The two lengths by hand: packed by msgpack, the array would be copied twice.
  packer = msgpack.Packer()
  description = packer.pack_array_header(3) + packer.pack(array.shape)
  description += packer.pack(array.dtype.name) + struct.pack(">BI", 0xC6, array.nbytes)
  file.write(struct.pack(">BIb", 0xC9, len(description) + array.nbytes, _NDARRAY))
  file.write(description)
  file.write(_raw(array))


def _raw(array: np.ndarray) -> np.ndarray:
  """Returns an array's bytes, not copied."""
  return array.reshape(-1).view(np.uint8)
