# SPDX-License-Identifier: Apache-2.0
"""The format of a checkpoint is told from what lies there; what cannot be read gets a way round."""

from __future__ import annotations

import json

import numpy as np
import pytest
import stored

from switch_t5.errors import CheckpointError
from switch_t5.interop import convert, detect

MODEL = stored.switch(num_encoder_layers=2, num_encoder_sparse_layers=1, num_decoder_layers=1)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  """Returns the folder of a checkpoint in every format, by the format's name; do not change it."""
  root, checkpoint = tmp_path_factory.mktemp("formats"), stored.checkpoint(MODEL)
  paths = {
    kind: convert.export_checkpoint(checkpoint, kind, root / kind, stored.ignore)
    for kind in convert.EXPORTED
  }
  paths["switch_t5"] = convert.import_checkpoint(checkpoint, root / "own", "", stored.ignore)
  return paths


@pytest.mark.parametrize("kind", detect.FORMATS)
def test_each_format_is_told_and_opened(kind, written):
  assert detect.detect(written[kind]) == (kind, written[kind])
  wanted = stored.checkpoint(MODEL)
  found = detect.open_checkpoint(written[kind])
  assert found.parameters().keys() == wanted.parameters().keys()
  for name, array in found.parameters().items():
    np.testing.assert_array_equal(array.read(), wanted.parameters()[name].read(), name)
  if kind != "huggingface":
    stored.assert_same(found, wanted)


@pytest.mark.parametrize("kind", ["t5x", "orbax", "switch_t5"])
def test_the_folder_of_a_run_stands_for_its_newest_checkpoint(kind, written):
  run = written[kind].parent.parent if kind == "switch_t5" else written[kind].parent
  assert detect.detect(run) == (kind, written[kind])


def test_numbers_not_letters_order_checkpoints(tmp_path, written):
  for step in (9, 10):
    (tmp_path / f"checkpoint_{step}").mkdir()
    (tmp_path / f"checkpoint_{step}" / "checkpoint").write_bytes(b"\x80")
  (tmp_path / "checkpoint_99.unfinished").mkdir()
  assert detect.detect(tmp_path) == ("t5x", tmp_path / "checkpoint_10")


REFUSED = {
  "nothing there": (lambda path: None, "a folder or a file that exists"),
  "an empty folder": (lambda path: path.mkdir(), "manifest.json"),
  "pickled": (
    lambda path: (path.mkdir(), (path / "pytorch_model.bin").write_bytes(b"x")),
    "pickle runs code",
  ),
  "pickled beside a configuration": (
    lambda path: (
      path.mkdir(),
      (path / "config.json").write_text(json.dumps({"model_type": "t5"})),
      (path / "pytorch_model.bin").write_bytes(b"x"),
    ),
    "safe_serialization",
  ),
  "of TensorFlow": (
    lambda path: (
      path.mkdir(),
      (path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-1"'),
    ),
    "TensorFlow",
  ),
  "of ours without its manifest": (
    lambda path: (path.mkdir(), (path / "data_state.json").write_text("{}")),
    "manifest.json: is missing",
  ),
}


@pytest.mark.parametrize("make, said", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_is_refused_with_a_way_round(make, said, tmp_path):
  make(tmp_path / "given")
  with pytest.raises(CheckpointError) as error:
    detect.open_checkpoint(tmp_path / "given")
  assert said in str(error.value)
  assert str(tmp_path / "given") in str(error.value)
