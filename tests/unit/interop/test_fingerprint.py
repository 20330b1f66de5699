# SPDX-License-Identifier: Apache-2.0
"""The fingerprint of a checkpoint follows from its content, in every format, and from nothing else."""

from __future__ import annotations

import shutil

import pytest
import stored

from switch_t5.errors import CheckpointError
from switch_t5.interop import convert, detect
from switch_t5.interop.fingerprint import fingerprint

MODEL = stored.switch(num_encoder_layers=1, num_encoder_sparse_layers=1, num_decoder_layers=1)
FOREIGN = [kind for kind in detect.FORMATS if kind != detect.OWN]
BESIDE = ("README.md", "spiece.model", "generation_config.json")


def write(kind, folder, seed=0):
  """Writes a checkpoint of random numbers in a format, and returns its path."""
  checkpoint = stored.checkpoint(MODEL, adafactor=False, seed=seed)
  if kind == detect.OWN:
    return convert.import_checkpoint(checkpoint, folder, "", stored.ignore)
  return convert.export_checkpoint(checkpoint, kind, folder, stored.ignore)


@pytest.mark.parametrize("kind", detect.FORMATS)
def test_a_copy_elsewhere_has_the_same_and_other_numbers_have_another(kind, tmp_path):
  path = write(kind, tmp_path / "one")
  copy = tmp_path / f"of another name{path.suffix}"
  (shutil.copytree if path.is_dir() else shutil.copyfile)(path, copy)
  assert fingerprint(copy) == fingerprint(path)
  assert fingerprint(write(kind, tmp_path / "two", seed=1)) != fingerprint(path)


@pytest.mark.parametrize("kind", FOREIGN)
def test_each_files_bytes_count(kind, tmp_path):
  path = write(kind, tmp_path / "one")
  found = {fingerprint(path)}
  part = path / "state" if kind == detect.ORBAX else path
  files = [path] if path.is_file() else [file for file in part.rglob("*") if file.is_file()]
  files = [file for file in files if file.name not in BESIDE]
  for file in files:
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    found.add(fingerprint(path))
    file.write_bytes(content)
  assert len(found) == 1 + len(files)


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_lies_beside_the_arrays_does_not_count(kind, tmp_path):
  path = write(kind, tmp_path / "one")
  before = fingerprint(path)
  for name in BESIDE:
    ((path if path.is_dir() else path.parent) / name).write_text("something else")
  assert fingerprint(path) == before


def test_the_folder_and_the_file_in_it_are_one_checkpoint(tmp_path):
  path = write(detect.T5X, tmp_path / "one")
  assert fingerprint(path / "checkpoint") == fingerprint(path)
  path = write(detect.ORBAX, tmp_path / "two")
  assert fingerprint(path / "state") == fingerprint(path)


def test_one_without_its_manifest_is_refused(tmp_path):
  path = write(detect.OWN, tmp_path / "one")
  (path / "manifest.json").write_text("{}")
  with pytest.raises(CheckpointError, match=r"manifest\.json"):
    fingerprint(path)
