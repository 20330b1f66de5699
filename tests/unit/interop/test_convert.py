# SPDX-License-Identifier: Apache-2.0
"""From any format to any other and back is exact; what is not finished looks like nothing."""

from __future__ import annotations

import shutil

import pytest
import stored

from switch_t5.errors import CheckpointError
from switch_t5.interop import convert, detect

MODEL = stored.switch(num_encoder_layers=2, num_encoder_sparse_layers=1, num_decoder_layers=1)


SMALL = stored.dense(num_encoder_layers=1, num_decoder_layers=1)


def write(checkpoint, kind, folder):
  if kind == detect.OWN:
    return convert.import_checkpoint(checkpoint, folder, "", stored.ignore)
  return convert.export_checkpoint(checkpoint, kind, folder, stored.ignore)


def test_through_all_formats_nothing_changes(tmp_path):
  """Whatever the order: each reader gives the one view that each writer takes."""
  wanted = checkpoint = stored.checkpoint(MODEL)
  for number, kind in enumerate(["t5x", "orbax", "safetensors", "switch_t5", "t5x"]):
    path = write(checkpoint, kind, tmp_path / str(number))
    checkpoint = detect.open_checkpoint(path)
    stored.assert_same(checkpoint, wanted)


@pytest.mark.parametrize("kind", convert.EXPORTED)
def test_what_is_there_is_not_overwritten(kind, tmp_path):
  checkpoint = stored.checkpoint(SMALL, adafactor=False)
  path = write(checkpoint, kind, tmp_path / "a")
  before = sorted(path.rglob("*"))
  with pytest.raises(CheckpointError, match="nothing is overwritten"):
    write(checkpoint, kind, tmp_path / "a")
  assert sorted(path.rglob("*")) == before


@pytest.mark.parametrize("kind", detect.FORMATS)
def test_a_conversion_that_ends_half_way_leaves_nothing(kind, tmp_path):
  checkpoint = stored.checkpoint(MODEL)
  name = "target/decoder/decoder_norm/scale"

  def die():
    raise OSError("the disk is gone")

  values = checkpoint.arrays[name]
  checkpoint.arrays[name] = type(values)(values.shape, values.dtype, die)
  with pytest.raises(CheckpointError, match="the disk is gone"):
    write(checkpoint, kind, tmp_path / "a")
  with pytest.raises(CheckpointError, match="no checkpoint here"):
    detect.detect(tmp_path / "a")


def test_what_a_killed_conversion_left_is_no_checkpoint_and_no_obstacle(tmp_path):
  checkpoint = stored.checkpoint(MODEL)
  path = write(checkpoint, "t5x", tmp_path)
  shutil.move(path, f"{path}.unfinished")
  with pytest.raises(CheckpointError, match="no checkpoint here"):
    detect.detect(tmp_path)
  stored.assert_same(detect.open_checkpoint(write(checkpoint, "t5x", tmp_path)), checkpoint)
  assert [child.name for child in tmp_path.iterdir()] == ["checkpoint_7"]


def test_a_run_gets_no_second_past(tmp_path):
  first, second = (stored.checkpoint(SMALL, adafactor=False, step=step) for step in (7, 3))
  write(first, detect.OWN, tmp_path)
  with pytest.raises(CheckpointError, match="steps 7"):
    write(second, detect.OWN, tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
  (tmp_path / "file").write_text("")
  for kind in detect.FORMATS:
    with pytest.raises(CheckpointError, match="file/a"):
      write(stored.checkpoint(SMALL, adafactor=False), kind, tmp_path / "file" / "a")


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(tmp_path, monkeypatch):
  usage = shutil.disk_usage(tmp_path)._replace(free=1000)
  monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
  for kind in detect.FORMATS:
    with pytest.raises(CheckpointError, match="1,000 bytes are free"):
      write(stored.checkpoint(MODEL), kind, tmp_path / "a")
  assert list(tmp_path.iterdir()) == []


def test_arrays_that_are_no_model_are_not_exported(tmp_path):
  checkpoint = stored.checkpoint(MODEL)
  checkpoint.arrays["target/encoder/layers_0/shared_mlp/wi/kernel"] = checkpoint.arrays[
    "target/encoder/layers_0/mlp/wi/kernel"
  ]
  with pytest.raises(CheckpointError, match="shared_mlp"):
    convert.export_checkpoint(checkpoint, "t5x", tmp_path / "a", stored.ignore)
  assert list(tmp_path.iterdir()) == []
