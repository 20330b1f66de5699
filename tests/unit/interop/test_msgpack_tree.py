# SPDX-License-Identifier: Apache-2.0
"""Flax's msgpack files: Flax and the scan agree, and a file that lies is refused at once."""

from __future__ import annotations

import struct
import time
import tracemalloc

import flax.serialization
import ml_dtypes
import numpy as np
import pytest
import stored
from t5x_files import Raw, extension, in_pieces, leaves, packed

from switch_t5.errors import CheckpointError
from switch_t5.interop import msgpack_tree
from switch_t5.interop.checkpoint import StoredArray
from switch_t5.interop.msgpack_tree import read_tree, write_tree
from switch_t5.interop.untrusted import DTYPES

RNG = np.random.default_rng(0)
LIST, MAP, TEXT = (Raw(bytes([byte]) + b"\x7f\xff\xff\xff") for byte in (0xDD, 0xDF, 0xDB))
NESTED = Raw(b"\x81\xa1a" * 1000 + b"\xc0")


def write(path, node):
  file = path / "file"
  file.write_bytes(packed(node))
  return file


def normal(*shape, dtype=np.float32):
  return RNG.normal(scale=9, size=shape).astype(dtype)


def same(found: StoredArray, wanted) -> bool:
  values = found.read()
  assert (found.shape, found.dtype) == (values.shape, values.dtype)
  return (
    (values.shape, values.dtype) == (wanted.shape, wanted.dtype)
    and values.flags.c_contiguous
    and values.tobytes() == wanted.tobytes()
  )


ARRAYS = {
  "dtypes": {name: normal(3, 5, dtype=dtype) for name, dtype in DTYPES.items()},
  "axes": {str(n): normal(*range(1, n + 1)) for n in range(7)},
  "sizes": {str(n): normal(n) for n in (1, 15, 16, 63, 64, 65, 300, 20_000)},
  "scalar": np.int32(7),
  "bfloat16 scalar": ml_dtypes.bfloat16(1.5),
}


@pytest.mark.smoke
@pytest.mark.parametrize("writer", [packed, flax.serialization.msgpack_serialize])
def test_every_array_is_read_bit_for_bit(tmp_path, writer):
  (tmp_path / "file").write_bytes(writer(ARRAYS))
  found = dict(leaves(read_tree(tmp_path / "file")))
  wanted = dict(leaves(ARRAYS))
  assert found.keys() == wanted.keys()
  for name, array in wanted.items():
    assert same(found[name], array), name


@pytest.mark.parametrize("writer", [packed, flax.serialization.msgpack_serialize])
def test_other_values_are_python_s(tmp_path, writer):
  numbers = [0, 127, 128, 255, 256, 65536, 2**32, 2**63 - 1, -1, -32, -33, -129, -(2**63)]
  tree = {
    **{"none": None, "true": True, "false": False, "pi": 3.14, "numbers": numbers, "empty": {}},
    **{"text": "x" * 31, "longer": "é" * 200, "nested": {"list": [[], [None, {"a": "b"}]]}},
    "wide": {f"k{i}": i for i in range(66_000)},
  }
  (tmp_path / "file").write_bytes(writer(tree))
  found = read_tree(tmp_path / "file")
  assert found == tree
  assert found["true"] is True


def test_arrays_in_pieces_are_one_array(tmp_path, monkeypatch):
  array = normal(5, 7, dtype=ml_dtypes.bfloat16)
  found = read_tree(write(tmp_path, {"a": in_pieces(array, 3)}))
  assert same(found["a"], array)
  monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 16)
  (tmp_path / "file").write_bytes(flax.serialization.msgpack_serialize({"a": array}))
  assert same(read_tree(tmp_path / "file")["a"], array)


@pytest.mark.parametrize("limit", [1 << 30, 64])
def test_flax_reads_what_is_written(tmp_path, monkeypatch, limit):
  monkeypatch.setattr(msgpack_tree, "MAX_INLINE_BYTES", limit)
  plain = {"version": 3, "text": "t", "list": [1, 2.5, None]}
  arrays = {key: ARRAYS[key] for key in ("dtypes", "axes", "sizes")}
  written, seen = {}, []
  for name, array in leaves(arrays):
    part, key = name.split("/")
    written.setdefault(part, {})[key] = stored.array(array)
  write_tree(tmp_path / "file", plain | written, lambda *done: seen.append(done))
  restored = flax.serialization.msgpack_restore((tmp_path / "file").read_bytes())
  assert {key: restored.pop(key) for key in plain} == plain
  wanted = dict(leaves(arrays))
  assert seen == [(name, array.nbytes) for name, array in wanted.items()]
  for name, array in leaves(restored):
    assert (array.shape, array.dtype) == (wanted[name].shape, wanted[name].dtype)
    assert array.tobytes() == wanted[name].tobytes()
  for name, array in leaves({key: read_tree(tmp_path / "file")[key] for key in arrays}):
    assert same(array, wanted[name])


def test_arrays_are_stepped_over(tmp_path):
  size = 3 << 30
  data = b"\xc6" + struct.pack(">I", size)
  content = b"\x93" + packed([size // 4]) + packed("float32") + data
  start = packed({"a": Raw(b"\xc9" + struct.pack(">I", len(content) + size) + b"\x01" + content)})
  with (tmp_path / "file").open("wb") as file:
    file.write(start)
    file.truncate(len(start) + size)  # a hole: no bytes on the disk
  assert read_tree(tmp_path / "file")["a"].shape == (size // 4,)


def test_a_file_that_became_shorter_is_refused(tmp_path):
  file = write(tmp_path, {"a": normal(9)})
  array = read_tree(file)["a"]
  file.write_bytes(file.read_bytes()[:-1])
  with pytest.raises(CheckpointError, match=r"a: .*shorter"):
    array.read()


LIES = {
  "empty": (Raw(b""), "empty"),
  "text": (Raw(b"model_checkpoint_path: 1"), "not a dictionary"),
  "bytes after the end": (Raw(packed({"a": 1}) + b"\xc0"), "1 bytes after"),
  "list of 2**31": ({"a": LIST}, "a: list of 2,147,483,647"),
  "lists of 2**31": ({"a": Raw(LIST * 1000)}, "a: list of 2,147,483,647"),
  "map of 2**31": ({"a": {"b": MAP}}, "a/b: map of 2,147,483,647"),
  "text of 2**31": ({"a": TEXT}, "a: text of 2,147,483,647"),
  "text of 2**31 as a key": ({"a": Raw(b"\x81" + TEXT)}, "a: text of 2,147,483,647"),
  "long text": ({"a": "x" * 2000}, "a: text of 2,000"),
  "deep maps": ({"a": NESTED}, "a/a/a.*too large"),
  "deep lists": ({"a": Raw(b"\x91" * 10_000_000 + b"\xc0")}, "too large"),
  "20 million nothings": ({"a": Raw(b"\xdd\x01\x31\x2d\x00" + b"\xc0" * 20_000_000)}, "too large"),
  "small maps": (
    {"a": Raw(b"\xdd\x00\x02\x00\x00" + b"\x82\xa1a\xc0\xa1b\x80" * 2**17)},
    "too lar",
  ),
  "small lists": (
    {"a": Raw(b"\xdd\x00\x00\xff\xff" + (b"\x9f" + b"\x90" * 15) * 2**16)},
    "too large",
  ),
  "small arrays": (
    {"a": Raw(packed([0] * 90_000)[:5] + packed(np.int32(1)) * 90_000)},
    "too large",
  ),
  "empty keys": ({"": 1}, "key ''"),
  "keys with /": ({"a/b": 1}, "key 'a/b'"),
  "keys with NUL": ({"a\0": 1}, "key 'a"),
  "keys with control codes": ({"\x1b[2J": 1}, r"key '\\x1b"),
  "keys that are numbers": ({1: 1}, "value where there must be text"),
  "a key twice": ({"a": Raw(b"\x82\xa1b\x01\xa1b\x02")}, "a: the key 'b' twice"),
  "text that is not UTF-8": ({"a": Raw(b"\xa1\xff")}, "a: text that is not UTF-8"),
  "an unused code": ({"a": Raw(b"\xc1")}, "a: no valid msgpack"),
  "bytes": ({"a": Raw(b"\xc4\x01x")}, "a: bytes"),
  "a complex number": ({"a": Raw(b"\xc7\x01\x02x")}, "a: extension type 2"),
  "a date": ({"a": Raw(b"\xd6\xff\0\0\0\0")}, "a: extension type 255"),
  "a scalar with axes": ({"a": extension(3, [1], "int32", bytes(4))}, "a: a scalar"),
  "too few bytes": ({"a": extension(1, [2], "float32", bytes(7))}, "a: 7 bytes"),
  "too many bytes": ({"a": extension(1, [2], "float32", bytes(9))}, "a: 9 bytes"),
  "an immense shape": ({"a": extension(1, [2**62] * 2, "int32", bytes(8))}, "a: shape"),
  "a negative shape": ({"a": extension(1, [-2, -1], "int32", bytes(8))}, "a: shape"),
  "an empty shape": ({"a": extension(1, [0], "int32", b"")}, "a: shape"),
  "a shape of words": ({"a": extension(1, ["2"], "int32", bytes(8))}, "a: text"),
  "a shape of truths": ({"a": extension(1, [True], "int32", bytes(4))}, "a: shape"),
  "a shape of many axes": ({"a": extension(1, [1] * 5000, "int32", bytes(4))}, "a"),
  "a shape without end": ({"a": extension(1, LIST, "int32", bytes(4))}, "a: list of 2,147"),
  "objects": ({"a": extension(1, [1], "object", bytes(8))}, "a: dtype 'object'"),
  "bfloat16 of version 2": ({"a": extension(1, [1], "uint16", bytes(2))}, "a: dtype 'uint16'"),
  "a dtype that is code": ({"a": extension(1, [1], "__import__('os')", bytes(8))}, "a: dtype"),
  "an array over its neighbour": (
    {"a": Raw(b"\xc7\x0e\x01\x93\x91\x02\xa5int32\xc4\x08"), "b": 2**40},
    "a: ",
  ),
  "pieces of more": ({"a": in_pieces(normal(6), 4) | {"shape": {"0": 5}}}, "a: pieces of 6"),
  "pieces of less": ({"a": in_pieces(normal(6), 4) | {"shape": {"0": 2**40}}}, "a: shape|a: piec"),
  "pieces out of count": ({"a": in_pieces(normal(6), 4) | {"shape": {"1": 6}}}, "a: .*numbered"),
  "no pieces": ({"a": in_pieces(normal(6), 4) | {"chunks": {}}}, "a: pieces"),
  "pieces that are words": ({"a": in_pieces(normal(6), 4) | {"chunks": {"0": "x"}}}, "a: pieces"),
  "pieces and more": ({"a": in_pieces(normal(6), 4) | {"x": 1}}, "a: an array in pieces with"),
  "a root that is an array": (in_pieces(normal(6), 4), "not a dictionary"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused_at_once_and_without_memory(tmp_path, lie):
  node, message = LIES[lie]
  file = write(tmp_path, node)
  start = time.process_time()
  with pytest.raises(CheckpointError, match=message):
    read_tree(file)
  assert time.process_time() - start < 1
  tracemalloc.start()
  try:
    with pytest.raises(CheckpointError):
      read_tree(file)
    assert tracemalloc.get_traced_memory()[1] < 100 << 20
  finally:
    tracemalloc.stop()


def test_every_shorter_file_is_refused(tmp_path):
  tree = {"a": normal(2, 3), "b": {"c": "text", "d": [1, 2**40, -1.5]}, "e": np.int32(1)}
  whole = packed(tree)
  for size in range(len(whole)):
    (tmp_path / "file").write_bytes(whole[:size])
    with pytest.raises(CheckpointError):
      read_tree(tmp_path / "file")


def test_whatever_is_in_a_file_the_error_is_of_the_checkpoint(tmp_path):
  whole = bytearray(packed({"a": normal(2), "b": in_pieces(normal(4), 2), "c": [1, None, "x"]}))
  opened = 0
  for _ in range(1000):
    damaged = bytearray(whole)
    for at in RNG.integers(len(whole), size=RNG.integers(1, 4)):
      damaged[at] = RNG.integers(256)
    (tmp_path / "file").write_bytes(damaged)
    try:
      for _, leaf in leaves(read_tree(tmp_path / "file")):
        if isinstance(leaf, StoredArray):
          leaf.read()
      opened += 1
    except CheckpointError:
      pass
  assert 0 < opened < 1000
