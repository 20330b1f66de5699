# SPDX-License-Identifier: Apache-2.0
"""T5X's native checkpoints that lie: each is refused at once, and the message names the array."""

from __future__ import annotations

import gzip
import json
import pathlib
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import zstandard
from t5x_files import (
  CHUNKS,
  GZIP,
  KERNEL,
  TREE,
  UNUSED,
  ZSTD,
  compressed,
  packed,
  respec,
  spec,
  write_example,
)

from switch_t5.errors import CheckpointError
from switch_t5.interop.t5x_native import open_t5x

Lie = Callable[[pathlib.Path], object]
SHARDED = "target.encoder.kernel"


def respecs(change: Callable[[dict[str, Any]], Any]) -> Lie:
  """Changes what stands for the kernel."""
  return lambda folder: respec(folder, change)


def stores(**kvstore: Any) -> Lie:
  return respecs(lambda leaf: leaf | {"kvstore": leaf["kvstore"] | kvstore})


def states(**metadata: Any) -> Lie:
  return respecs(lambda leaf: leaf | {"metadata": leaf["metadata"] | metadata})


def relabel(**fields: Any) -> Lie:
  """Changes `.zarray` of the kernel."""

  def lie(folder: pathlib.Path) -> None:
    file = folder / SHARDED / ".zarray"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))

  return lie


def chunk(content: Callable[[bytes], bytes], compressor: Any = GZIP) -> Lie:
  """Changes a chunk of the kernel."""

  def lie(folder: pathlib.Path) -> None:
    relabel(compressor=compressor)(folder)
    kernel = np.ones(CHUNKS[KERNEL], ml_dtypes.bfloat16)
    for file in (folder / SHARDED).glob("[0-9]*"):
      file.write_bytes(compressed(kernel.tobytes(), compressor))
    file = folder / SHARDED / "1.0"
    file.write_bytes(content(file.read_bytes()))

  return lie


def link(name: str, to: str) -> Lie:
  def lie(folder: pathlib.Path) -> None:
    (folder / name).rename(folder.parent / "elsewhere")
    (folder / name).symlink_to(folder.parent / to)

  return lie


def root(**keys: Any) -> Lie:
  return lambda folder: (folder / "checkpoint").write_bytes(packed(keys))


def bomb(_: bytes) -> bytes:
  return gzip.compress(bytes(128 << 20), 1)


def zstd_bomb(_: bytes) -> bytes:
  return zstandard.ZstdCompressor().compress(bytes(256 << 20))


IN_KERNEL = f"{KERNEL}: "
LIES: dict[str, tuple[Lie, str]] = {
  "an absolute path": (stores(path="/etc/"), f"{IN_KERNEL}.*'/etc/'"),
  "a path that leaves": (stores(path="../x/"), f"{IN_KERNEL}.*'../x/'"),
  "a path that comes back": (stores(path=f"x/../{SHARDED}/"), f"{IN_KERNEL}.*names the path"),
  "an empty path": (stores(path=""), f"{IN_KERNEL}.*names the path ''"),
  "a path that is a number": (stores(path=3), f"{IN_KERNEL}.*names the path 3"),
  "no path": (respecs(lambda leaf: leaf | {"kvstore": {"driver": "file"}}), f"{IN_KERNEL}.*None"),
  "two paths": (respecs(lambda leaf: leaf | {"path": "x/"}), f"{IN_KERNEL}.*two paths"),
  "the path of another": (
    respecs(lambda leaf: spec("target.encoder.scale", TREE["target"]["encoder"]["scale"], (3,))),
    "target/encoder/scale: .* is that of target/encoder/kernel too",
  ),
  "the step's own folder": (stores(path="./"), f"{IN_KERNEL}.*names the path"),
  "a folder that is missing": (stores(path="x/"), f"{IN_KERNEL}.*folder x is missing"),
  "s3": (stores(driver="s3", bucket="b"), f"{IN_KERNEL}.*'s3' with the bucket 'b'"),
  "http": (stores(driver="http"), f"{IN_KERNEL}.*'http'"),
  "memory": (stores(driver="memory"), f"{IN_KERNEL}.*'memory'"),
  "ocdbt": (stores(driver="ocdbt"), f"{IN_KERNEL}.*'ocdbt'"),
  "another bucket": (stores(driver="gcs", bucket="b"), f"{IN_KERNEL}.*'gcs' with the bucket 'b'"),
  "a bucket on the disk": (stores(bucket="t5x-dummy-bucket"), f"{IN_KERNEL}.*'file' with the buck"),
  "a kvstore and more": (stores(base="s3://x"), f"{IN_KERNEL}.*kvstore with base"),
  "a kvstore by address": (
    respecs(lambda leaf: leaf | {"kvstore": "s3://bucket/x"}),
    f"{IN_KERNEL}.*'s3://bucket/x'",
  ),
  "n5": (respecs(lambda leaf: leaf | {"driver": "n5"}), f"{IN_KERNEL}.*the driver 'n5'"),
  "a spec and more": (respecs(lambda leaf: leaf | {"transform": {}}), f"{IN_KERNEL}.*transform"),
  "metadata of another kind": (
    respecs(lambda leaf: leaf | {"metadata": 1}),
    f"{IN_KERNEL}.*data 1",
  ),
  "words": (respecs(lambda leaf: "zarr"), f"{IN_KERNEL}'zarr' in place of an array"),
  "a list": (respecs(lambda leaf: [1, 2]), f"{IN_KERNEL}.*in place of an array"),
  "a truth": (respecs(lambda leaf: True), f"{IN_KERNEL}'True' in place of an array"),
  "a placeholder that leaves": (respecs(lambda leaf: "PLACEHOLDER://../x"), f"{IN_KERNEL}.*'../x'"),
  "a spec with a larger shape": (states(shape=[6, 2**50]), f"{IN_KERNEL}.*in the spec"),
  "a spec with a smaller shape": (states(shape=[6, 7]), f"{IN_KERNEL}.*in the spec"),
  "a spec with no axes": (states(shape=[]), f"{IN_KERNEL}.*in the spec"),
  "a spec with another dtype": (
    respecs(lambda leaf: leaf | {"dtype": "float32"}),
    f"{IN_KERNEL}.*dtype float32 in the spec",
  ),
  "metadata with another dtype": (states(dtype="<f4"), f"{IN_KERNEL}.*<f4 in the spec"),
  "a larger shape": (relabel(shape=[6, 11]), f"{IN_KERNEL}chunk 0.2 is missing"),
  "a shape without end": (relabel(shape=[2**20, 2**20]), f"{IN_KERNEL}chunk 0.2 is missing"),
  "an axis without end": (relabel(shape=[6, 2**38]), f"{IN_KERNEL}chunk 0.2 is missing"),
  "a smaller shape": (relabel(shape=[6, 5]), f"{IN_KERNEL}.*4 chunks"),
  "a shape within the chunks": (relabel(shape=[6, 7]), f"{IN_KERNEL}.*in the spec"),
  "chunks of more": (relabel(chunks=[5, 5]), f"{IN_KERNEL}.*does not hold 50 bytes"),
  "chunks without end": (relabel(chunks=[2**20, 2**19]), f"{IN_KERNEL}.*chunks"),
  "a dtype of more bytes": (relabel(dtype="<f4"), f"{IN_KERNEL}.*in the spec"),
  "objects": (relabel(dtype="|O"), f"{IN_KERNEL}.*dtype"),
  "pickle as a filter": (relabel(filters=[{"id": "pickle"}]), f"{IN_KERNEL}.*filters"),
  "a compressor unknown": (relabel(compressor={"id": "lzma"}), f"{IN_KERNEL}compressor 'lzma'"),
  "a missing chunk": (lambda f: (f / SHARDED / "1.0").unlink(), f"{IN_KERNEL}chunk 1.0 is missing"),
  "an extra chunk": (lambda f: (f / SHARDED / "2.0").write_bytes(b""), f"{IN_KERNEL}5 chunks"),
  "no metadata": (lambda f: (f / SHARDED / ".zarray").unlink(), f"{IN_KERNEL}.zarray is missing"),
  "metadata that is a bomb": (
    lambda f: (f / SHARDED / ".zarray").write_bytes(b"[" * 60_000),
    f"{KERNEL}/.zarray",
  ),
  "metadata without end": (
    lambda f: (f / SHARDED / ".zarray").write_bytes(b"[],[]," * 1_000_000),
    f"{IN_KERNEL}.zarray has more than",
  ),
  "a truncated chunk": (chunk(lambda raw: raw[:-9]), f"{IN_KERNEL}chunk 1.0"),
  "a truncated zstd chunk": (chunk(lambda raw: raw[:-3], ZSTD), f"{IN_KERNEL}chunk 1.0"),
  "a truncated plain chunk": (chunk(lambda raw: raw[:-1], None), f"{IN_KERNEL}chunk 1.0"),
  "an empty chunk": (chunk(lambda raw: b""), f"{IN_KERNEL}chunk 1.0"),
  "a chunk and more": (chunk(lambda raw: raw + b"\0"), f"{IN_KERNEL}chunk 1.0"),
  "a flipped bit": (
    chunk(lambda raw: raw[:12] + bytes([raw[12] ^ 1]) + raw[13:]),
    f"{IN_KERNEL}chunk 1.0",
  ),
  "a gzip bomb": (chunk(bomb), f"{IN_KERNEL}chunk 1.0"),
  "a zstd bomb": (chunk(zstd_bomb, ZSTD), f"{IN_KERNEL}chunk 1.0"),
  "a link to an array": (link(SHARDED, "elsewhere"), f"{SHARDED}: a link"),
  "a link to the file": (link("checkpoint", "elsewhere"), "checkpoint: a link"),
  "a link to a chunk": (link(f"{SHARDED}/1.0", "elsewhere"), "1.0: a link"),
  "a link in a circle": (link(SHARDED, "step"), f"{SHARDED}: a link"),
  "no file": (lambda f: (f / "checkpoint").unlink(), "checkpoint: not a file"),
  "version 2": (root(version=2, optimizer=TREE), "version 2\n.*uint16"),
  "version 4": (root(version=4, optimizer=TREE), "version 4\n"),
  "a version that is text": (root(version="3", optimizer=TREE), "version 3\n"),
  "no version": (root(optimizer=TREE), "version None"),
  "no optimizer": (root(version=3), "it has version"),
  "an optimizer that is a number": (root(version=3, optimizer=1), "it has version, optimizer"),
  "a root with more": (root(version=3, optimizer=TREE, x=1), "it has version, optimizer, x"),
  "an optimizer with more": (root(version=3, optimizer=TREE | {"x": UNUSED}), "it has x"),
  "another program's": (root(params=TREE["target"]), "it has params"),
  "no parameters": (root(version=3, optimizer={"state": TREE["state"]}), "no parameters"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused_at_once_and_without_memory(tmp_path, lie):
  make, message = LIES[lie]
  make(write_example(tmp_path / "step"))

  def read_all() -> None:
    for array in open_t5x(tmp_path / "step").arrays.values():
      array.read()

  start = time.process_time()
  with pytest.raises(CheckpointError, match=message):
    read_all()
  assert time.process_time() - start < 1
  tracemalloc.start()
  try:
    with pytest.raises(CheckpointError):
      read_all()
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
  finally:
    tracemalloc.stop()
