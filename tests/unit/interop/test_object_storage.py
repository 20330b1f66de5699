# SPDX-License-Identifier: Apache-2.0
"""Checkpoints in object storage: read where they lie, written there, or refused with the way round."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import stored
import t5x_files

from switch_t5.checkpoint.initial import SavedParameters
from switch_t5.checkpoint.listing import verify_checkpoint
from switch_t5.errors import CheckpointError, ConfigError
from switch_t5.interop import convert, detect
from switch_t5.interop.checkpoint import StoredCheckpoint
from switch_t5.interop.fingerprint import fingerprint
from switch_t5.storage import objects, transfers
from switch_t5.storage.location import location

BUCKET = "gs://t5-data/pretrained_models/t5x"


def put(folder: pathlib.Path, prefix: str) -> None:
  """Copies a folder to object storage."""
  for path in folder.rglob("*"):
    if path.is_file():
      transfers.upload(path, location(f"{prefix}/{path.relative_to(folder)}"))


def of_t5x() -> StoredCheckpoint:
  """What `t5x_files.write_example` writes."""
  wanted = {n: stored.array(np.asarray(leaf)) for n, leaf in t5x_files.leaves(t5x_files.TREE)}
  return StoredCheckpoint(pathlib.Path("tree"), "tree", wanted)


@pytest.fixture(scope="module")
def wanted() -> StoredCheckpoint:
  model = stored.dense(num_encoder_layers=1, num_decoder_layers=1)
  return stored.checkpoint(model, adafactor=False)


def test_one_of_ours_is_written_there_and_read_back_bit_for_bit(gs_prefix, wanted, tmp_path):
  path = convert.import_checkpoint(wanted, location(f"{gs_prefix}/run"), "", stored.ignore)
  assert not verify_checkpoint(path)
  found = detect.open_checkpoint(f"{gs_prefix}/run")
  assert str(found.path) == str(path) == f"{gs_prefix}/run/checkpoints/checkpoint_{wanted.step}"
  local = convert.import_checkpoint(wanted, tmp_path, "", stored.ignore)
  stored.assert_same(found, detect.open_checkpoint(local))
  assert SavedParameters(path).types == SavedParameters(local).types
  with pytest.raises(CheckpointError, match="something already"):
    convert.import_checkpoint(wanted, location(f"{gs_prefix}/run"), "", stored.ignore)


def test_one_of_ours_that_is_damaged_is_refused(gs_prefix, wanted):
  path = convert.import_checkpoint(wanted, location(f"{gs_prefix}/run"), "", stored.ignore)
  name = next(name for name in objects.sizes(path) if name.startswith("ocdbt.process_0/d"))
  content = bytearray(objects.read(path / name))
  content[len(content) // 2] ^= 1
  objects.write(path / name, bytes(content))
  with pytest.raises(CheckpointError, match=f"{path}(.|\n)*SHA-256"):
    detect.open_checkpoint(path)


def test_one_that_is_not_finished_is_none(gs_prefix, wanted):
  path = convert.import_checkpoint(wanted, location(f"{gs_prefix}/run"), "", stored.ignore)
  later = path.parent / f"checkpoint_{wanted.step + 1}"
  objects.write(later / "unfinished", b"")
  objects.write(later / "data_state.json", b"{}")
  assert detect.detect(f"{gs_prefix}/run") == (detect.OWN, path)


def test_t5x_s_are_read_bit_for_bit(remote_prefix, tmp_path):
  put(t5x_files.write_example(tmp_path / "checkpoint_1234"), f"{remote_prefix}/run/checkpoint_1234")
  found = detect.open_checkpoint(f"{remote_prefix}/run")
  stored.assert_same(found, of_t5x())
  assert found.format == "T5X, native"
  assert fingerprint(f"{remote_prefix}/run") == fingerprint(tmp_path / "checkpoint_1234")


@pytest.mark.parametrize("kind", [detect.T5X, detect.ORBAX, detect.HUGGING_FACE])
def test_other_formats_are_written_there(gs_prefix, wanted, kind, tmp_path):
  to = f"{gs_prefix}/exported"
  path = convert.export_checkpoint(wanted, kind, location(to), stored.ignore)
  local = convert.export_checkpoint(wanted, kind, tmp_path / "exported", stored.ignore)
  there = {name: objects.read(path / name) for name in objects.sizes(path)}
  names = {str(file.relative_to(local)) for file in local.rglob("*") if file.is_file()}
  if kind != detect.HUGGING_FACE:
    stored.assert_same(detect.open_checkpoint(to), wanted)
  else:
    assert there == {name: (local / name).read_bytes() for name in names}
    with pytest.raises(CheckpointError, match=f"gcloud storage cp -r {to}"):
      detect.open_checkpoint(to)
  with pytest.raises(CheckpointError, match="something already"):
    convert.export_checkpoint(wanted, kind, location(to), stored.ignore)


def test_a_chunk_that_is_missing_is_no_zeros(gs_prefix, tmp_path):
  folder = t5x_files.write_example(tmp_path / "checkpoint_1234")
  put(folder, gs_prefix)
  chunk = next(folder.rglob("0.0"))
  objects.delete(location(f"{gs_prefix}/{chunk.relative_to(folder)}"))
  with pytest.raises(CheckpointError, match=r"chunk 0\.0 is missing"):
    detect.open_checkpoint(gs_prefix)


def test_no_path_in_a_checkpoint_leads_out_of_its_folder(gs_prefix, tmp_path):
  folder = t5x_files.write_example(tmp_path / "checkpoint_1234")
  t5x_files.respec(folder, lambda leaf: "PLACEHOLDER://../other/kernel")
  put(folder, f"{gs_prefix}/run")
  put(folder, f"{gs_prefix}/other")
  with pytest.raises(CheckpointError, match=r"'\.\./other/kernel'"):
    detect.open_checkpoint(f"{gs_prefix}/run")


def test_what_is_not_there_and_stores_of_another_kind_are_refused(gs_prefix):
  with pytest.raises(CheckpointError, match=f"{gs_prefix}/none"):
    detect.detect(f"{gs_prefix}/none")
  with pytest.raises(ConfigError, match="hdfs://cluster/model"):
    detect.detect("hdfs://cluster/model")
