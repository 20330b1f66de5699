# SPDX-License-Identifier: Apache-2.0
"""T5X's native checkpoints: read as written by the specification, written as T5X and Flax read them."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import flax.serialization
import ml_dtypes
import numpy as np
import pytest
import stored
import tensorstore as ts
from t5x_files import (
  CHUNKS,
  GZIP,
  TREE,
  ZSTD,
  in_pieces,
  leaves,
  normal,
  packed,
  respec,
  write_example,
  write_native,
  write_orbax,
  write_zarr,
)

from switch_t5.interop import t5x_native
from switch_t5.interop.checkpoint import PARAM_STATES, StoredCheckpoint
from switch_t5.interop.t5x_native import choose_chunks, open_t5x, write_t5x


def assert_holds(found: StoredCheckpoint, tree: Any) -> None:
  """Holds that a checkpoint has the leaves of a tree, bit for bit."""
  wanted = {name: stored.array(np.asarray(leaf)) for name, leaf in leaves(tree)}
  stored.assert_same(found, StoredCheckpoint(pathlib.Path("tree"), "tree", wanted))


@pytest.mark.smoke
@pytest.mark.parametrize("compressor", [GZIP, ZSTD, None], ids=["gzip", "zstd", "plain"])
@pytest.mark.parametrize(
  "kvstore",
  [{"driver": "file"}, {"driver": "gfile"}, {"driver": "gcs", "bucket": "t5x-dummy-bucket"}],
  ids=["file", "gfile", "gcs"],
)
def test_a_step_is_read_bit_for_bit(tmp_path, compressor, kvstore):
  found = open_t5x(write_example(tmp_path, compressor=compressor, kvstore=kvstore))
  assert_holds(found, TREE)
  assert (found.format, found.notes, found.step) == ("T5X, native", (), 1234)


def test_a_file_with_all_arrays_inline_is_read_bit_for_bit(tmp_path):
  file = tmp_path / "checkpoint_0"
  tree = TREE | {"state": TREE["state"] | {"step": np.asarray(7, np.int32)}}
  file.write_bytes(packed({"version": 3, "optimizer": tree}))
  assert_holds(open_t5x(file), tree)


def test_the_file_in_a_step_stands_for_the_step(tmp_path):
  assert_holds(open_t5x(write_example(tmp_path) / "checkpoint"), TREE)


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

  respec(write_example(tmp_path), move)
  assert_holds(open_t5x(tmp_path), TREE)


def test_chunks_and_compressor_of_the_array_s_own_metadata_win(tmp_path):
  other = {"chunks": [6, 8], "compressor": {"id": "blosc"}}
  respec(write_example(tmp_path), lambda leaf: leaf | {"metadata": leaf["metadata"] | other})
  assert_holds(open_t5x(tmp_path), TREE)


def test_a_step_that_is_a_python_number_is_read(tmp_path):
  write_orbax(tmp_path, TREE | {"state": {"step": 2**30}}, chunks=CHUNKS)
  assert open_t5x(tmp_path).step == 2**30


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
  first = open_t5x(write_example(tmp_path / "first"))
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


def test_an_array_of_many_chunks_is_written_bit_for_bit(tmp_path, monkeypatch):
  monkeypatch.setattr(t5x_native, "_CHUNK_BYTES", 24)
  arrays = {"target/a/kernel": normal(22, 6), "target/a/scale": normal(14), "target/b": normal()}
  wanted = {name: stored.array(np.asarray(array)) for name, array in arrays.items()}
  written(StoredCheckpoint(tmp_path, "", wanted), tmp_path / "step")
  assert len(list((tmp_path / "step" / "target.a.kernel").iterdir())) == 22 + 1
  found = open_t5x(tmp_path / "step").arrays
  assert all(found[name].read().tobytes() == array.tobytes() for name, array in arrays.items())


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
