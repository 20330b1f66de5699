# SPDX-License-Identifier: Apache-2.0
"""safetensors files: what is read and written, against the library, and what is refused."""

from __future__ import annotations

import json
import re
import time
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from safetensors import safe_open
from stored import ignore

from switch_t5.errors import CheckpointError
from switch_t5.interop.checkpoint import StoredArray
from switch_t5.interop.safetensors_files import INDEX, ONE_FILE, open_files, write_files

DTYPES = (np.float64, np.float32, np.float16, ml_dtypes.bfloat16, np.int64, np.int32)


def draw(dtypes=DTYPES) -> dict[str, np.ndarray]:
  """Returns arrays of odd sizes, so that not every order keeps them aligned."""
  rng = np.random.default_rng(0)
  arrays = {}
  for i, dtype in enumerate(dtypes):
    arrays[f"kernel_{i}"] = (100 * rng.normal(size=(3, 5))).astype(dtype)
    arrays[f"scale_{i}"] = (100 * rng.normal(size=(7,))).astype(dtype)
  return arrays


def store(arrays) -> dict[str, StoredArray]:
  return {
    name: StoredArray(array.shape, array.dtype, lambda array=array: array)
    for name, array in arrays.items()
  }


def assert_same(found, wanted) -> None:
  assert found.keys() == wanted.keys()
  for name, array in wanted.items():
    stored = found[name]
    assert (stored.shape, stored.dtype) == (array.shape, array.dtype)
    read = stored.read()
    assert read.dtype == array.dtype and read.flags.c_contiguous
    np.testing.assert_array_equal(read, array, err_msg=name)


@pytest.mark.smoke
def test_the_librarys_files_are_read_bit_for_bit(tmp_path):
  arrays = draw()
  safetensors.numpy.save_file(arrays, tmp_path / ONE_FILE, metadata={"format": "pt"})
  assert_same(open_files(tmp_path), arrays)
  assert_same(open_files(tmp_path / ONE_FILE), arrays)


@pytest.mark.smoke
def test_the_library_reads_what_is_written(tmp_path):
  arrays = draw()
  told = []
  # A transposed array and one in another order of names, as conversions have them.
  stored = store(dict(reversed(arrays.items())) | {"kernel_0": arrays["kernel_0"].T.copy().T})
  write_files(stored, tmp_path, lambda *of: told.append(of))
  assert told == [(name, array.nbytes) for name, array in stored.items()]
  found = safetensors.numpy.load_file(tmp_path / ONE_FILE)
  assert found.keys() == arrays.keys()
  for name, array in arrays.items():
    assert found[name].dtype == array.dtype
    np.testing.assert_array_equal(found[name], array)
  with safe_open(tmp_path / ONE_FILE, framework="numpy") as file:
    assert file.metadata() == {"format": "pt"}  # without it Hugging Face's loaders refuse a file


def test_files_do_not_depend_on_the_order_of_the_arrays(tmp_path):
  arrays = store(draw())
  for name, order in (("a", arrays), ("b", dict(reversed(arrays.items())))):
    (tmp_path / name).mkdir()
    write_files(order, tmp_path / name, ignore, max_shard_bytes=200)
  files = sorted(path.name for path in (tmp_path / "a").iterdir())
  assert len(files) > 3
  for file in files:
    assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_large_sets_are_written_as_shards_with_an_index(tmp_path):
  arrays = draw([np.float32] * 3)
  write_files(store(arrays), tmp_path, ignore, max_shard_bytes=100)
  index = json.loads((tmp_path / INDEX).read_text())
  assert index["metadata"]["total_size"] == sum(array.nbytes for array in arrays.values())
  files = sorted(set(index["weight_map"].values()))
  assert files == [f"model-{i:05}-of-{len(files):05}.safetensors" for i in range(1, len(files) + 1)]
  for name, file in index["weight_map"].items():
    shard = safetensors.numpy.load_file(tmp_path / file)
    assert sum(array.nbytes for array in shard.values()) <= 100
    np.testing.assert_array_equal(shard[name], arrays[name])
  assert_same(open_files(tmp_path), arrays)


def test_writing_and_reading_hold_one_array_at_a_time(tmp_path):
  array = np.ones((256, 1024), np.float32)
  arrays = {
    f"a_{i}": StoredArray(array.shape, array.dtype, lambda i=i: array + i) for i in range(16)
  }
  tracemalloc.start()
  write_files(arrays, tmp_path, ignore)
  for stored in open_files(tmp_path).values():
    stored.read()
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < 3 * array.nbytes


def test_a_dtype_that_files_do_not_have_is_refused_before_anything_is_written(tmp_path):
  with pytest.raises(CheckpointError, match=r"seed: uint32\[2\]"):
    write_files(store({"seed": np.zeros(2, np.uint32)}), tmp_path, ignore)
  assert not list(tmp_path.iterdir())


def file_of(header: object, data: bytes = b"", length: int | None = None) -> bytes:
  raw = header if isinstance(header, bytes) else json.dumps(header).encode()
  return (len(raw) if length is None else length).to_bytes(8, "little") + raw + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)) -> dict:
  return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


EIGHT = b"\0" * 8
LIES = {
  "an empty file": (b"", "a header of 0 bytes"),
  "a length that is cut": (b"\1\0", "a header of 1 bytes in a file of 2"),
  "a header longer than the file": (file_of({}, length=100), "a header of 100 bytes"),
  "a header of exabytes": (file_of({}, length=2**63), "9,223,372,036,854,775,808"),
  "no JSON": (file_of(b"{nothing"), "no valid JSON"),
  "not an object": (file_of([]), "not a JSON object"),
  "an array that is a list": (file_of({"a": []}), "a: not an object"),
  "a name with a line break": (file_of({"a\n": entry()}, EIGHT), r"an array called 'a\\n'"),
  "half of a character": (file_of({"\ud800": entry()}, EIGHT), r"an array called '\\ud800'"),
  "a name of a megabyte": (file_of({"a" * (1 << 20): entry()}, EIGHT), "called 'aaaa.*at most 500"),
  "no dtype": (file_of({"a": {}}), "a: dtype None"),
  "an unknown dtype": (file_of({"a": entry("F8_E4M3")}), "a: dtype 'F8_E4M3'"),
  "a dtype that is a list": (file_of({"a": entry([])}), r"a: dtype \[\]"),
  "no shape": (file_of({"a": entry(shape=None)}), "a: shape None"),
  "a negative size": (file_of({"a": entry(shape=[-2])}), r"a: shape \[-2\]"),
  "a fraction": (file_of({"a": entry(shape=[2.0])}), r"a: shape \[2.0\]"),
  "a shape of exabytes": (file_of({"a": entry(shape=[2**40, 2**40])}), "a: shape"),
  "nine axes": (file_of({"a": entry(shape=[1] * 9)}), "a: shape"),
  "no offsets": (file_of({"a": entry(offsets=None)}, EIGHT), "a: data_offsets None"),
  "offsets that are true": (file_of({"a": entry(offsets=[False, 8])}), "a: data_offsets"),
  "three offsets": (file_of({"a": entry(offsets=[0, 4, 8])}, EIGHT), "a: data_offsets"),
  "fewer bytes than the shape": (file_of({"a": entry(offsets=[0, 4])}), "a: 4 bytes for float32"),
  "offsets backwards": (file_of({"a": entry(offsets=[8, 0])}, EIGHT), "a: -8 bytes"),
  "before the data": (file_of({"a": entry(offsets=[-8, 0])}, EIGHT), "a begins at -8"),
  "beyond the file": (file_of({"a": entry()}, b"\0" * 7), "arrays of 8 bytes, and 7 bytes"),
  "bytes left over": (file_of({"a": entry()}, b"\0" * 9), "arrays of 8 bytes, and 9 bytes"),
  "a hole": (
    file_of({"a": entry(), "b": entry(offsets=[16, 24])}, b"\0" * 24),
    "b begins at 16, and what is before it ends at 8",
  ),
  "an overlap": (file_of({"a": entry(), "b": entry(offsets=[4, 12])}, EIGHT), "b begins at 4"),
  "twice the same bytes": (file_of({"a": entry(), "b": entry()}, EIGHT), "b begins at 0"),
  "metadata that the library refuses": (
    file_of({"__metadata__": {"a": 1}, "a": entry()}, EIGHT),
    "[Ii]nvalid",
  ),
}


@pytest.mark.parametrize(("content", "message"), LIES.values(), ids=LIES)
def test_a_file_that_lies_is_refused_when_it_is_opened(tmp_path, content, message):
  (tmp_path / ONE_FILE).write_bytes(content)
  with pytest.raises(CheckpointError, match=re.compile(message, re.DOTALL)):
    open_files(tmp_path)


BOMBS = {
  "lists in lists": b'{"a":' + b"[" * (4 << 20),
  "objects in objects": b'{"a":' * (1 << 20),
  "empty lists": b'{"a":[' + b"[]," * (8 << 20) + b"[]]}",
  "a header of 33 MiB": b" " * (33 << 20),
}


@pytest.mark.parametrize("header", BOMBS.values(), ids=BOMBS)
def test_a_bomb_ends_within_a_second_and_a_hundred_megabytes(tmp_path, header):
  (tmp_path / ONE_FILE).write_bytes(file_of(header))
  tracemalloc.start()
  start = time.perf_counter()
  with pytest.raises(CheckpointError):
    open_files(tmp_path)
  seconds = time.perf_counter() - start
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert seconds < 1 and peak < 100 << 20


def test_a_name_that_stands_twice_is_never_read_as_the_wrong_one(tmp_path):
  raw = json.dumps({"a": entry(shape=[2])})[:-1] + "," + json.dumps({"a": entry(shape=[1, 2])})[1:]
  (tmp_path / ONE_FILE).write_bytes(file_of(raw.encode(), EIGHT))
  try:
    array = open_files(tmp_path)["a"]
    assert array.read().shape == array.shape
  except CheckpointError as error:
    assert "a" in str(error)


@pytest.fixture
def shards(tmp_path):
  """A folder with two shards, `x` in the first and `y` in the second."""
  for file, name in (("one.safetensors", "x"), ("two.safetensors", "y")):
    safetensors.numpy.save_file({name: np.ones(2, np.float32)}, tmp_path / file)
  write_index(tmp_path, {"x": "one.safetensors", "y": "two.safetensors"})
  return tmp_path


def write_index(folder, weight_map) -> None:
  (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize(
  ("weight_map", "message"),
  [
    (None, "no weight_map"),
    ({}, "no weight_map"),
    (["one.safetensors"], "no weight_map"),
    ({"x": "one.safetensors", "y": "one.safetensors"}, "y is not in one.safetensors"),
    ({"x": "one.safetensors"} | {"z": "two.safetensors"}, "y is, against the index, in two"),
    ({"x": "one.safetensors", "y": "three.safetensors"}, "three.safetensors: not a file"),
    ({"x": "one.safetensors", "y": "../two.safetensors"}, "names the file '../two.safetensors'"),
    ({"x": "one.safetensors", "y": "/etc/passwd"}, "names the file '/etc/passwd'"),
    ({"x": "one.safetensors", "y": "sub/two.safetensors"}, "names the file 'sub/two"),
    ({"x": "one.safetensors", "y": ".."}, "names the path '..'"),
    ({"x": "one.safetensors", "y": ""}, "names the path ''"),
    ({"x": "one.safetensors", "y": 2}, "names the file 2"),
    ({"x": "one.safetensors", "y": "\ud800"}, r"names the file '\\ud800'"),
    ({"x": "one.safetensors", "\x1b": "two.safetensors"}, r"an array called '\\x1b'"),
  ],
)
def test_an_index_that_lies_is_refused(shards, weight_map, message):
  write_index(shards, weight_map)
  with pytest.raises(CheckpointError, match=message):
    open_files(shards)


def test_shards_are_read_by_the_index(shards):
  assert_same(open_files(shards), {name: np.ones(2, np.float32) for name in "xy"})


def test_an_array_in_two_shards_is_refused(shards):
  both = {name: np.ones(2, np.float32) for name in "xy"}
  safetensors.numpy.save_file(both, shards / "two.safetensors")
  with pytest.raises(CheckpointError, match="x is, against the index, in two"):
    open_files(shards)


def test_a_shard_that_is_a_link_is_refused(shards, tmp_path_factory):
  elsewhere = tmp_path_factory.mktemp("elsewhere") / "file"
  (shards / "two.safetensors").rename(elsewhere)
  (shards / "two.safetensors").symlink_to(elsewhere)
  with pytest.raises(CheckpointError, match="is a link"):
    open_files(shards)


def test_one_file_beside_an_index_is_refused(shards):
  safetensors.numpy.save_file({"x": np.ones(2)}, shards / ONE_FILE)
  with pytest.raises(CheckpointError, match=r"both model\.safetensors and"):
    open_files(shards)


def test_a_folder_without_such_files_is_refused(tmp_path):
  with pytest.raises(CheckpointError, match=r"model\.safetensors: not a file"):
    open_files(tmp_path)
