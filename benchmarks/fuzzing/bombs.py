# SPDX-License-Identifier: Apache-2.0
"""What is small in a file and large once it is believed, parsed or decompressed."""

from __future__ import annotations

import functools
import pathlib
import random
import struct
import zlib
from collections.abc import Callable

_GIB = 1 << 30

# In place of a value.
JSON: dict[str, Callable[[], bytes]] = {
  "JSON: a million lists in lists": lambda: b"[" * 1_000_000,
  "JSON: 200,000 objects in objects": lambda: b'{"a":' * 200_000,
  "JSON: 20 million lists": lambda: b"[" + b"[]," * 20_000_000 + b"1]",
  "JSON: 3 million numbers": lambda: b"[" + b"1," * 3_000_000 + b"1]",
  "JSON: a million keys": lambda: b"{" + b'"a":1,' * 1_000_000 + b'"a":1}',
  "JSON: a text of 70 MB": lambda: b'"' + b"x" * 70_000_000 + b'"',
  "JSON: a text of 20 MB": lambda: b'"' + b"x" * 20_000_000 + b'"',
  "JSON: a number of a million digits": lambda: b"1" * 1_000_000,
  "JSON: 1e400000": lambda: b"1e400000",
}
MSGPACK: dict[str, Callable[[], bytes]] = {
  "msgpack: a list of 2**32": lambda: b"\xdd\xff\xff\xff\xff",
  "msgpack: a map of 2**32": lambda: b"\xdf\xff\xff\xff\xff",
  "msgpack: a text of 2**32": lambda: b"\xdb\xff\xff\xff\xff",
  "msgpack: bytes of 2**32": lambda: b"\xc6\xff\xff\xff\xff",
  "msgpack: an array of 2**32": lambda: b"\xc9\xff\xff\xff\xff\x01",
  "msgpack: lists in lists": lambda: b"\x91" * 200_000 + b"\xc0",
  "msgpack: maps in maps": lambda: b"\x81\xa1a" * 200_000 + b"\xc0",
  "msgpack: 30 million of None": lambda: (
    struct.pack(">BI", 0xDD, 30_000_000) + bytes([0xC0]) * 30_000_000
  ),
  "msgpack: ten million empty maps": lambda: (
    struct.pack(">BI", 0xDD, 10_000_000) + b"\x80" * 10_000_000
  ),
  "msgpack: a text of 20 MB": lambda: struct.pack(">BI", 0xDB, 20_000_000) + b"x" * 20_000_000,
  "msgpack: a shape of 2**62": lambda: _array(b"\x91\xcf" + struct.pack(">Q", 1 << 62)),
  "msgpack: a shape of a million axes": lambda: _array(
    b"\xdd\x00\x0f\x42\x40" + b"\x01" * 1_000_000
  ),
}


def _array(shape: bytes) -> bytes:
  content = b"\x93" + shape + b"\xa7float32\xc4\x04\0\0\0\0"
  return struct.pack(">BIb", 0xC9, len(content), 1) + content


@functools.cache
def _gzip() -> bytes:
  """Returns 2 GiB of zeros, without their right checksum: what takes them all sees it too late."""
  stream = zlib.compressobj(9, wbits=-15)
  block = stream.compress(bytes(_GIB // 64)) + stream.flush(zlib.Z_FULL_FLUSH)
  return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + block * 128 + b"\x03\0" + bytes(8)


def _zstd(descriptor: bytes) -> bytes:
  """Returns a frame of 2 GiB of zeros after a description of it."""
  block = struct.pack("<I", (128 << 10) << 3 | 1 << 1)[:3] + b"\0"
  last = struct.pack("<I", 1 << 3 | 1 << 1 | 1)[:3] + b"\0"
  return b"\x28\xb5\x2f\xfd" + descriptor + block * (1 << 14) + last


# In place of a chunk.
CHUNKS: dict[str, Callable[[], bytes]] = {
  "gzip of 2 GiB": _gzip,
  "zstd of 2 GiB": lambda: _zstd(b"\0\x50"),
  "zstd that claims 2**62 bytes": lambda: _zstd(b"\xc0\x50" + struct.pack("<Q", 1 << 62)),
  "zstd with a window of 2 TiB": lambda: _zstd(b"\0\xf8"),
  "zstd of many frames": lambda: b"\x28\xb5\x2f\xfd\x20\0\x01\0\0" * 1_000_000,
  "raw zeros of 64 MiB": lambda: bytes(64 << 20),
}


def plant_in_bytes(rng: random.Random, file: pathlib.Path) -> str:
  """Replaces a chunk, or a file of a database, which is compressed too."""
  kind, bomb = rng.choice(list(CHUNKS.items()))
  if file.name == "manifest.ocdbt":
    body = struct.pack(">I", 0x0CDB3A2A)
    data = _zstd(b"\0\x50")
    body += struct.pack("<Q", 4 + 8 + 2 + len(data) + 4) + b"\0\x01" + data
    file.write_bytes(body + struct.pack("<I", _crc32c(body)))
    return "OCDBT: a manifest of 2 GiB"
  file.write_bytes(bomb())
  return kind


def lie_about_length(rng: random.Random, file: pathlib.Path) -> str:
  """Gives a safetensors file another length of its header."""
  length = rng.choice(
    (0, 1, 2, 7, 1 << 20, 1 << 31, 100 << 20, 1 << 62, (1 << 63) + 1, (1 << 64) - 1)
  )
  file.write_bytes(length.to_bytes(8, "little") + file.read_bytes()[8:])
  return "safetensors: a header of another length"


@functools.cache
def _crc_table() -> tuple[int, ...]:
  table = []
  for value in range(256):
    for _ in range(8):
      value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    table.append(value)
  return tuple(table)


def _crc32c(data: bytes) -> int:
  table, value = _crc_table(), 0xFFFFFFFF
  for byte in data:
    value = table[(value ^ byte) & 255] ^ value >> 8
  return value ^ 0xFFFFFFFF
