# SPDX-License-Identifier: Apache-2.0
"""Arrays in zarr's format 2: as TensorStore reads and writes them, but for what is missing."""

from __future__ import annotations

import json
import os
import pathlib

import ml_dtypes
import numpy as np
import pytest
import tensorstore as ts
from t5x_files import GZIP, ZSTD, write_zarr

from switch_t5.errors import CheckpointError
from switch_t5.interop import zarr

ZLIB = {"id": "zlib", "level": 3}
RNG = np.random.default_rng(0)
FORMS = [
  ((), ()),
  ((7,), (7,)),
  ((7,), (3,)),
  ((4, 6), (4, 6)),
  ((4, 6), (2, 3)),
  ((5, 7), (2, 3)),
  ((5, 7), (8, 9)),  # a chunk larger than the array
  ((1, 1, 11), (1, 1, 1)),  # chunk 0.0.10 is after 0.0.9
  ((3, 4, 5), (2, 4, 3)),
]


def normal(shape, dtype=np.float32):
  return RNG.normal(scale=9, size=shape).astype(dtype)


def assert_same(found, wanted):
  assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
  values = found.read()
  assert (values.shape, values.dtype) == (wanted.shape, wanted.dtype)
  assert values.flags.c_contiguous
  assert values.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("compressor", [GZIP, ZSTD, None], ids=["gzip", "zstd", "plain"])
@pytest.mark.parametrize(("shape", "chunks"), FORMS)
def test_an_array_by_the_specification_is_read_bit_for_bit(tmp_path, shape, chunks, compressor):
  for dtype in (np.float32, ml_dtypes.bfloat16):
    array = np.asarray(normal(shape, dtype))
    write_zarr(tmp_path / array.dtype.name, array, chunks, compressor)
    assert_same(zarr.open_folder(tmp_path / array.dtype.name, "a"), array)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64", "int32", "int64"])
@pytest.mark.parametrize("compressor", [GZIP, ZSTD, ZLIB, None], ids=["gzip", "zstd", "zlib", "no"])
def test_what_tensorstore_writes_is_read_bit_for_bit(tmp_path, compressor, dtype):
  array = normal((5, 7), ts.dtype(dtype).numpy_dtype)
  metadata = {"shape": [5, 7], "chunks": [2, 3], "compressor": compressor}
  store = {"driver": "file", "path": f"{tmp_path}/a/"}
  spec = {"driver": "zarr", "dtype": dtype, "kvstore": store, "metadata": metadata}
  ts.open(spec, create=True).result().write(array).result()
  assert_same(zarr.open_folder(tmp_path / "a", "a"), array)


def test_arrays_of_an_ocdbt_database_are_read_by_name(tmp_path):
  arrays = {"target.a.kernel": normal((5, 7)), "state.step": np.asarray(3, np.int32)}
  base = {"driver": "file", "path": f"{tmp_path}/"}
  for name, array in arrays.items():
    store = {"driver": "ocdbt", "base": base, "path": f"{name}/"}
    metadata = {"shape": array.shape, "chunks": [3] * array.ndim, "compressor": ZSTD}
    spec = {"driver": "zarr", "dtype": array.dtype.name, "kvstore": store, "metadata": metadata}
    ts.open(spec, create=True).result().write(array).result()
  found = zarr.open_ocdbt(tmp_path)
  assert found.keys() == arrays.keys()
  for name, array in arrays.items():
    assert_same(found[name], array)


def write_database(folder: pathlib.Path) -> ts.KvStore:
  """Writes a database with the array a, of two chunks."""
  store = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/"}}
  metadata = {"shape": [4], "chunks": [2], "compressor": ZSTD}
  spec = {"driver": "zarr", "dtype": "float32", "metadata": metadata}
  array = ts.open(spec | {"kvstore": store | {"path": "a/"}}, create=True).result()
  array.write(normal((4,))).result()
  return ts.KvStore.open(store).result()


def test_a_missing_chunk_of_a_database_is_said_with_its_folder(tmp_path):
  write_database(tmp_path).write("a/1", None).result()
  with pytest.raises(CheckpointError, match=f"{tmp_path}: a: chunk 1 is missing: 1 of 2"):
    zarr.open_ocdbt(tmp_path)


@pytest.mark.parametrize("name", ["manifest.ocdbt", "d/*"])
def test_a_file_of_a_database_that_is_mostly_a_hole_is_refused(tmp_path, name):
  write_database(tmp_path)
  file = next(tmp_path.glob(name))
  os.truncate(file, 1 << 40)
  with pytest.raises(CheckpointError, match=f"{file}: 1,0.* of its 1,0.* bytes are not there"):
    zarr.open_ocdbt(tmp_path)


def test_a_manifest_of_a_database_is_small(tmp_path):
  write_database(tmp_path)
  with (tmp_path / "manifest.ocdbt").open("ab") as file:
    file.write(bytes(65 << 20))
  with pytest.raises(CheckpointError, match=r"manifest\.ocdbt: 68,1.* bytes"):
    zarr.open_ocdbt(tmp_path)


@pytest.mark.parametrize("chunk", ["0.0", "1.1", "2.2"])
def test_a_missing_chunk_is_an_error_and_not_zeros(tmp_path, chunk):
  write_zarr(tmp_path / "a", normal((5, 7)), (2, 3))
  (tmp_path / "a" / chunk).unlink()
  with pytest.raises(CheckpointError, match=f"my array: chunk {chunk} is missing: 8 of 9"):
    zarr.open_folder(tmp_path / "a", "my array")


@pytest.mark.parametrize("chunk", ["3.0", "0", "00.0", "0.0.0", "x", ".zgroup", "x/0"])
def test_a_file_that_is_no_chunk_is_an_error(tmp_path, chunk):
  write_zarr(tmp_path / "a", normal((5, 7)), (2, 3))
  file = tmp_path / "a" / chunk
  file.parent.mkdir(exist_ok=True)
  file.write_bytes(b"")
  with pytest.raises(CheckpointError, match="my array: 10 chunks, where its shape has 9"):
    zarr.open_folder(tmp_path / "a", "my array")


def test_opening_reads_no_chunk(tmp_path):
  write_zarr(tmp_path / "a", normal((5, 7)), (2, 3))
  for file in (tmp_path / "a").glob("[0-9]*"):
    file.write_bytes(b"not gzip")
  array = zarr.open_folder(tmp_path / "a", "my array")
  with pytest.raises(CheckpointError, match=r"my array: chunk 0\.0: "):
    array.read()


@pytest.mark.parametrize(
  "fields",
  [
    {"zarr_format": 3},
    {"order": "F"},
    {"filters": [{"id": "delta"}]},
    {"dimension_separator": "/"},
    {"dtype": ">f4"},
    {"dtype": "|V2"},
    {"dtype": [["x", "<f4"]]},
    {"compressor": {"id": "blosc"}},
    {"shape": [5, -7]},
    {"shape": [5, 7.0]},
    {"shape": "57"},
    {"shape": [5, 7, 1]},
    {"chunks": [2, 0]},
    {"chunks": None},
  ],
  ids=str,
)
def test_metadata_that_is_not_understood_is_an_error(tmp_path, fields):
  write_zarr(tmp_path / "a", normal((5, 7)), (2, 3))
  file = tmp_path / "a" / ".zarray"
  file.write_text(json.dumps(json.loads(file.read_text()) | fields))
  with pytest.raises(CheckpointError, match="my array"):
    zarr.open_folder(tmp_path / "a", "my array")


def test_a_file_much_longer_than_its_chunk_is_not_read_whole(tmp_path):
  write_zarr(tmp_path / "a", normal((5, 7)), (2, 3), None)
  with (tmp_path / "a" / "1.1").open("ab") as file:
    file.truncate(1 << 40)  # a hole: no bytes on the disk
  with pytest.raises(CheckpointError, match=r"my array: chunk 1\.1 does not hold 24 bytes"):
    zarr.open_folder(tmp_path / "a", "my array").read()
