# SPDX-License-Identifier: Apache-2.0
"""T5X's native checkpoints: read as written by the specification, written as T5X and Flax read them."""

from __future__ import annotations

import gzip
import json
import pathlib
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import flax.serialization
import ml_dtypes
import numpy as np
import pytest
import stored
import tensorstore as ts
import zstandard
from t5x_files import (
  GZIP,
  ZSTD,
  compressed,
  in_pieces,
  leaves,
  packed,
  spec,
  write_native,
  write_orbax,
  write_zarr,
)

from switch_t5.errors import CheckpointError
from switch_t5.interop.checkpoint import PARAM_STATES, StoredCheckpoint
from switch_t5.interop.t5x_native import choose_chunks, open_t5x, write_t5x

RNG = np.random.default_rng(0)
UNUSED = np.zeros(1, np.float32)


def normal(*shape: int, dtype: Any = np.float32) -> np.ndarray:
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


def assert_holds(found: StoredCheckpoint, tree: Any) -> None:
  """Holds that a checkpoint has the leaves of a tree, bit for bit."""
  wanted = {name: stored.array(np.asarray(leaf)) for name, leaf in leaves(tree)}
  stored.assert_same(found, StoredCheckpoint(pathlib.Path("tree"), "tree", wanted))


def native(folder: pathlib.Path, **changes: Any) -> pathlib.Path:
  write_native(folder, TREE, **{"chunks": CHUNKS} | changes)
  return folder


@pytest.mark.smoke
@pytest.mark.parametrize("compressor", [GZIP, ZSTD, None], ids=["gzip", "zstd", "plain"])
@pytest.mark.parametrize(
  "kvstore",
  [{"driver": "file"}, {"driver": "gfile"}, {"driver": "gcs", "bucket": "t5x-dummy-bucket"}],
  ids=["file", "gfile", "gcs"],
)
def test_a_step_is_read_bit_for_bit(tmp_path, compressor, kvstore):
  found = open_t5x(native(tmp_path, compressor=compressor, kvstore=kvstore))
  assert_holds(found, TREE)
  assert (found.format, found.notes, found.step) == ("T5X, native", (), 1234)


def test_a_file_with_all_arrays_inline_is_read_bit_for_bit(tmp_path):
  file = tmp_path / "checkpoint_0"
  tree = TREE | {"state": TREE["state"] | {"step": np.asarray(7, np.int32)}}
  file.write_bytes(packed({"version": 3, "optimizer": tree}))
  assert_holds(open_t5x(file), tree)


def test_the_file_in_a_step_stands_for_the_step(tmp_path):
  assert_holds(open_t5x(native(tmp_path) / "checkpoint"), TREE)


def test_arrays_in_pieces_are_read_bit_for_bit(tmp_path):
  kernel = TREE["target"]["encoder"]["kernel"]
  tree = TREE | {"target": {"encoder": {"kernel": in_pieces(kernel, 7)}}}
  (tmp_path / "checkpoint").write_bytes(packed({"version": 3, "optimizer": tree}))
  assert_holds(open_t5x(tmp_path), TREE | {"target": {"encoder": {"kernel": kernel}}})


def test_the_older_orbax_form_is_read_bit_for_bit(tmp_path):
  write_orbax(tmp_path, TREE | {"flax_mutables": None}, chunks=CHUNKS)
  found = open_t5x(tmp_path)
  assert_holds(found, TREE)
  assert (found.format, found.notes) == ("T5X, Orbax of before OCDBT", ())


def test_a_path_beside_the_kvstore_is_read(tmp_path):
  def move(leaf: dict[str, Any]) -> dict[str, Any]:
    return leaf | {"kvstore": {"driver": "file"}, "path": leaf["kvstore"]["path"]}

  respec(move)(native(tmp_path))
  assert_holds(open_t5x(tmp_path), TREE)


def test_chunks_and_compressor_of_the_array_s_own_metadata_win(tmp_path):
  other = {"chunks": [6, 8], "compressor": {"id": "blosc"}}
  respec(lambda leaf: leaf | {"metadata": leaf["metadata"] | other})(native(tmp_path))
  assert_holds(open_t5x(tmp_path), TREE)


def test_a_step_that_is_a_python_number_is_read(tmp_path):
  write_orbax(tmp_path, TREE | {"state": {"step": 2**40}}, chunks=CHUNKS)
  assert open_t5x(tmp_path).step == 2**40


def test_what_is_left_aside_is_said(tmp_path):
  tree = TREE | {"flax_mutables": {"cache": normal(3)}, "__version__": 1}
  write_native(tmp_path, tree, chunks=CHUNKS)
  write_zarr(tmp_path / "target.other", normal(2), (2,))
  (tmp_path / "train_ds-000-of-001.index").write_bytes(b"")
  found = open_t5x(tmp_path)
  assert_holds(found, TREE)
  assert found.notes == (
    "flax_mutables is left aside.",
    "__version__ is left aside.",
    "1 arrays that checkpoint does not name are left aside: target.other",
  )


def test_what_is_empty_is_not_worth_a_word(tmp_path):
  write_native(tmp_path, TREE | {"flax_mutables": {}}, chunks=CHUNKS)
  assert open_t5x(tmp_path).notes == ()


# --- written --------------------------------------------------------------------------------------


def written(checkpoint: StoredCheckpoint, folder: pathlib.Path) -> list[tuple[str, int]]:
  folder.mkdir()
  seen: list[tuple[str, int]] = []
  write_t5x(checkpoint, folder, lambda *done: seen.append(done))
  return seen


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("model", [stored.dense, stored.gated, stored.switch])
def test_what_is_written_is_read_bit_for_bit(tmp_path, model, dtype):
  checkpoint = stored.checkpoint(model(), dtype=dtype)
  seen = written(checkpoint, tmp_path / "step")
  stored.assert_same(open_t5x(tmp_path / "step"), checkpoint)
  assert sorted(seen) == sorted((name, array.nbytes) for name, array in checkpoint.arrays.items())


def test_what_was_read_is_written_bit_for_bit(tmp_path):
  first = open_t5x(native(tmp_path / "first"))
  written(first, tmp_path / "second")
  assert_holds(open_t5x(tmp_path / "second"), TREE)


def test_flax_and_tensorstore_read_what_is_written(tmp_path):
  checkpoint = stored.checkpoint(stored.switch(), dtype=ml_dtypes.bfloat16)
  written(checkpoint, tmp_path / "step")
  root = flax.serialization.msgpack_restore((tmp_path / "step" / "checkpoint").read_bytes())
  assert root.keys() == {"version", "optimizer"}
  assert root["version"] == 3
  folders = set()
  for name, array in checkpoint.arrays.items():
    node = root["optimizer"]
    for key in name.split("/"):
      node = node[key]
    if isinstance(node, dict):  # as T5X opens it: below the step's folder, by .zarray's chunks
      path = node["kvstore"]["path"]
      assert path == name.replace("/", ".") + "/"
      assert node["metadata"]["compressor"] == GZIP
      assert node.pop("metadata")["shape"] == list(array.shape)
      folders.add(path.removesuffix("/"))
      there = node | {"kvstore": {"driver": "file", "path": f"{tmp_path}/step/{path}"}}
      node = ts.open(there, read=True).result().read().result()
      assert name.startswith("target/") or name.endswith("/v")
    else:
      assert not name.startswith("target/")
    assert (node.shape, node.dtype) == (array.shape, array.dtype)
    assert node.tobytes() == array.read().tobytes()
  assert {file.name for file in (tmp_path / "step").iterdir()} == folders | {"checkpoint"}


def test_zarr_s_metadata_is_what_t5x_writes(tmp_path):
  kernel = stored.array(normal(4, 6, dtype=ml_dtypes.bfloat16))
  written(StoredCheckpoint(tmp_path, "", {"target/a/kernel": kernel}), tmp_path / "step")
  assert json.loads((tmp_path / "step" / "target.a.kernel" / ".zarray").read_text()) == {
    **{"zarr_format": 2, "shape": [4, 6], "chunks": [4, 6], "dtype": "bfloat16", "order": "C"},
    **{"fill_value": None, "filters": None, "compressor": GZIP, "dimension_separator": "."},
  }


def test_a_first_moment_is_a_folder_as_its_parameter_is(tmp_path):
  arrays = {name: stored.array(np.asarray(leaf)) for name, leaf in leaves(TREE)}
  arrays |= {f"{PARAM_STATES}encoder/kernel/m": stored.array(normal(6, 8))}
  written(StoredCheckpoint(tmp_path, "", arrays), tmp_path / "step")
  assert (tmp_path / "step" / "state.param_states.encoder.kernel.m" / ".zarray").exists()
  assert not (tmp_path / "step" / "state.param_states.encoder.scale.m").exists()


def test_without_optimizer_state_it_is_t5x_s_form_for_inference(tmp_path):
  checkpoint = stored.checkpoint(stored.dense(), adafactor=False)
  arrays = {name: a for name, a in checkpoint.arrays.items() if name.startswith("target/")}
  written(StoredCheckpoint(tmp_path, "", arrays), tmp_path / "step")
  root = flax.serialization.msgpack_restore((tmp_path / "step" / "checkpoint").read_bytes())
  assert root["optimizer"].keys() == {"target", "state"}
  assert root["optimizer"]["state"] == {"step": 0}
  assert root["optimizer"]["state"]["step"].dtype == np.int32


def test_arrays_of_zeros_have_all_their_chunks(tmp_path):
  arrays = {"target/a/scale": stored.array(np.zeros(5, np.float32))}
  written(StoredCheckpoint(tmp_path, "", arrays), tmp_path / "step")
  assert not open_t5x(tmp_path / "step").arrays["target/a/scale"].read().any()


@pytest.mark.parametrize(
  ("shape", "chunks"),
  [
    ((512, 768), (512, 768)),
    ((4096, 4096), (4096, 4096)),  # 64 MiB
    ((4096, 10240), (4096, 2560)),  # 10240 -> 5120 -> 2560
    ((32128, 4096), (4016, 4096)),  # 32128 -> 16064 -> 8032 -> 4016
    ((128, 768, 2048), (128, 384, 256)),  # 2048 -> 1024 -> 512, 768 -> 384, 512 -> 256
    ((3 * 2**24,), (2**24,)),
  ],
)
def test_chunks_are_t5x_s(shape, chunks):
  assert choose_chunks(shape, 4) == chunks


# --- lies -----------------------------------------------------------------------------------------

Lie = Callable[[pathlib.Path], object]
SHARDED = "target.encoder.kernel"


def respec(change: Callable[[dict[str, Any]], Any]) -> Lie:
  """Changes what stands for the kernel."""

  def lie(folder: pathlib.Path) -> None:
    kernel = TREE["target"]["encoder"]["kernel"]
    tree = {"kernel": change(spec(SHARDED, kernel, CHUNKS[KERNEL]))}
    for name in ("scale", "wi"):
      path = f"target/encoder/{name}"
      tree[name] = spec(path.replace("/", "."), TREE["target"]["encoder"][name], CHUNKS[path])
    states = TREE["state"]["param_states"]["encoder"]
    v = spec("state.param_states.encoder.scale.v", states["scale"]["v"], (5,))
    states = states | {"scale": states["scale"] | {"v": v}}
    state = {"step": TREE["state"]["step"], "param_states": {"encoder": states}}
    optimizer = {"target": {"encoder": tree}, "state": state}
    (folder / "checkpoint").write_bytes(packed({"version": 3, "optimizer": optimizer}))

  return lie


def stores(**kvstore: Any) -> Lie:
  return respec(lambda leaf: leaf | {"kvstore": leaf["kvstore"] | kvstore})


def states(**metadata: Any) -> Lie:
  return respec(lambda leaf: leaf | {"metadata": leaf["metadata"] | metadata})


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
  "no path": (respec(lambda leaf: leaf | {"kvstore": {"driver": "file"}}), f"{IN_KERNEL}.*None"),
  "two paths": (respec(lambda leaf: leaf | {"path": "x/"}), f"{IN_KERNEL}.*two paths"),
  "the path of another": (
    respec(lambda leaf: spec("target.encoder.scale", TREE["target"]["encoder"]["scale"], (3,))),
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
    respec(lambda leaf: leaf | {"kvstore": "s3://bucket/x"}),
    f"{IN_KERNEL}.*'s3://bucket/x'",
  ),
  "n5": (respec(lambda leaf: leaf | {"driver": "n5"}), f"{IN_KERNEL}.*the driver 'n5'"),
  "a spec and more": (respec(lambda leaf: leaf | {"transform": {}}), f"{IN_KERNEL}.*transform"),
  "metadata of another kind": (respec(lambda leaf: leaf | {"metadata": 1}), f"{IN_KERNEL}.*data 1"),
  "words": (respec(lambda leaf: "zarr"), f"{IN_KERNEL}'zarr' in place of an array"),
  "a list": (respec(lambda leaf: [1, 2]), f"{IN_KERNEL}.*in place of an array"),
  "a truth": (respec(lambda leaf: True), f"{IN_KERNEL}'True' in place of an array"),
  "a placeholder that leaves": (respec(lambda leaf: "PLACEHOLDER://../x"), f"{IN_KERNEL}.*'../x'"),
  "a spec with a larger shape": (states(shape=[6, 2**50]), f"{IN_KERNEL}.*in the spec"),
  "a spec with a smaller shape": (states(shape=[6, 7]), f"{IN_KERNEL}.*in the spec"),
  "a spec with no axes": (states(shape=[]), f"{IN_KERNEL}.*in the spec"),
  "a spec with another dtype": (
    respec(lambda leaf: leaf | {"dtype": "float32"}),
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
  make(native(tmp_path / "step"))

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
