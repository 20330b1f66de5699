# SPDX-License-Identifier: Apache-2.0
"""The manifest on plain files: it names any change, and needs no JAX."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import pytest

from switch_t5.checkpoint import manifest
from switch_t5.checkpoint.listing import list_checkpoints, list_steps, verify_checkpoint
from switch_t5.errors import CheckpointError


def make_checkpoint(root: pathlib.Path, step: int = 7) -> pathlib.Path:
  """Writes a sealed checkpoint of two processes, as the savers do."""
  path = root / f"checkpoint_{step}"
  for name, data in {
    "_METADATA": b"{}",
    "ocdbt.process_0/d/aa": b"0123456789",
    "ocdbt.process_1/d/bb": b"abc",
    "empty": b"",
  }.items():
    (path / name).parent.mkdir(parents=True, exist_ok=True)
    (path / name).write_bytes(data)
  for process in range(2):
    manifest.seal_process(path, process)
  manifest.seal(path, step, {"w": "float32[3]"}, processes=2)
  return path


def test_an_untouched_checkpoint_has_no_problems(tmp_path):
  path = make_checkpoint(tmp_path)
  assert verify_checkpoint(path) == []
  sealed = manifest.read_manifest(path)
  assert isinstance(sealed, manifest.Manifest)
  assert set(sealed.files) == {
    "_METADATA",
    "ocdbt.process_0/d/aa",
    "ocdbt.process_1/d/bb",
    "empty",
  }
  assert (sealed.step, sealed.state) == (7, {"w": "float32[3]"})


def test_every_bit_of_the_manifest_counts(tmp_path):
  path = make_checkpoint(tmp_path) / manifest.MANIFEST
  good = path.read_bytes()
  for position in range(len(good)):
    bad = bytearray(good)
    bad[position] ^= 1 << (position % 8)
    path.write_bytes(bad)
    (problem,) = verify_checkpoint(path.parent)
    assert (problem.file, problem.kind) == (manifest.MANIFEST, "changed")


def test_missing_extra_and_wrong_sizes_are_named_together(tmp_path):
  path = make_checkpoint(tmp_path)
  (path / "_METADATA").unlink()
  (path / "ocdbt.process_0/d/aa").write_bytes(b"0123")
  (path / "ocdbt.process_1/d/stray").write_bytes(b"")
  (path / "empty").write_bytes(b"not")
  assert [(problem.file, problem.kind) for problem in verify_checkpoint(path)] == [
    ("_METADATA", "missing"),
    ("empty", "size"),
    ("ocdbt.process_0/d/aa", "size"),
    ("ocdbt.process_1/d/stray", "extra"),
  ]


def test_the_shares_of_processes_cover_every_file(tmp_path):
  path = make_checkpoint(tmp_path)
  for name in ("_METADATA", "ocdbt.process_0/d/aa", "ocdbt.process_1/d/bb"):
    data = bytearray((path / name).read_bytes())
    data[0] ^= 1
    (path / name).write_bytes(data)
  shares = [problem for i in range(3) for problem in manifest.find_problems(path, 7, share=(i, 3))]
  assert sorted(shares) == manifest.find_problems(path, 7)
  assert len(manifest.find_problems(path, 7)) == 3


def test_a_link_is_not_followed_into_a_directory(tmp_path):
  path = make_checkpoint(tmp_path)
  (path / "link").symlink_to(tmp_path, target_is_directory=True)
  (problem,) = verify_checkpoint(path)
  assert (problem.file, problem.kind) == ("link", "extra")


def test_a_dangling_link_in_place_of_a_file_is_named(tmp_path):
  path = make_checkpoint(tmp_path)
  (path / "empty").unlink()
  (path / "empty").symlink_to(tmp_path / "nowhere")
  (problem,) = verify_checkpoint(path)
  assert (problem.file, problem.kind) == ("empty", "unreadable")


def test_processes_that_do_not_share_the_directory_are_told(tmp_path):
  manifest.seal_process(tmp_path, 0)
  with pytest.raises(FileNotFoundError, match="process 1 wrote its part elsewhere"):
    manifest.seal(tmp_path, 1, {}, processes=2)


def test_a_renamed_step_is_not_taken_for_another(tmp_path):
  path = make_checkpoint(tmp_path)
  (problem,) = verify_checkpoint(path.rename(tmp_path / "checkpoint_8"))
  assert "step 7" in problem.detail


def test_a_copy_under_any_other_name_verifies(tmp_path):
  copy = shutil.copytree(make_checkpoint(tmp_path), tmp_path / "best")
  assert verify_checkpoint(copy) == []


def test_listing_skips_what_is_not_committed(tmp_path):
  make_checkpoint(tmp_path, 10)
  make_checkpoint(tmp_path, 9)
  for name in ("checkpoint_11.orbax-checkpoint-tmp", "checkpoint_8.set_aside", "checkpoint_x"):
    (tmp_path / name).mkdir()
  assert list_steps(tmp_path) == [9, 10]
  assert list_steps(tmp_path / "none") == []
  first, second = list_checkpoints(tmp_path)
  assert (first.step, first.files, first.problems) == (9, 5, None)
  assert first.bytes == sum(f.stat().st_size for f in first.path.rglob("*") if f.is_file())
  assert second.committed is not None


def test_listing_says_which_step_is_damaged(tmp_path):
  make_checkpoint(tmp_path, 1)
  (make_checkpoint(tmp_path, 2) / manifest.MANIFEST).unlink()
  good, bad = list_checkpoints(tmp_path, verify=True)
  assert good.problems == []
  assert bad.problems[0].kind == "missing"
  assert bad.committed is None


def test_a_checkpoint_that_is_not_there_is_an_error(tmp_path):
  with pytest.raises(CheckpointError, match="checkpoint_3"):
    verify_checkpoint(tmp_path / "checkpoint_3")


def test_listing_and_verifying_import_neither_jax_nor_tensorflow():
  code = (
    "import sys, switch_t5.checkpoint.listing\n"
    "assert not {'jax', 'tensorflow', 'orbax'} & set(sys.modules)"
  )
  subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
  "content",
  [b"[" * 1_000_000, b'{"a":' * 200_000, b"[" + b"1," * 3_000_000 + b"1]", b" " * (65 << 20)],
  ids=["lists in lists", "objects in objects", "numbers", "64 MiB"],
)
def test_a_manifest_that_would_take_the_memory_is_damaged(tmp_path, content):
  path = make_checkpoint(tmp_path)
  (path / manifest.MANIFEST).write_bytes(content)
  started = time.process_time()
  (problem,) = verify_checkpoint(path)
  assert time.process_time() - started < 2
  assert (problem.file, problem.kind) == (manifest.MANIFEST, "changed")


@pytest.mark.parametrize("name", [manifest.MANIFEST, "empty"])
def test_a_pipe_is_not_waited_for(tmp_path, name):
  path = make_checkpoint(tmp_path)
  (path / name).unlink()
  os.mkfifo(path / name)
  (problem,) = verify_checkpoint(path)
  assert (problem.file, problem.kind) == (name, "unreadable")


def test_fields_of_other_types_are_damage_whatever_the_checksum(tmp_path):
  path = make_checkpoint(tmp_path) / manifest.MANIFEST
  good = json.loads(path.read_text())
  good.pop("sha256")
  entry = good["files"]["empty"]
  for change in (
    {"step": 7.0},
    {"committed": None},
    {"state": ["w"]},
    {"state": {"w": 3}},
    {"files": {"empty": entry | {"bytes": [0]}}},
    {"files": {"empty": entry | {"bytes": True}}},
    {"files": {"empty": entry | {"sha256": None}}},
    {"files": [entry]},
  ):
    fields = good | change
    fields["sha256"] = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(fields, sort_keys=True, indent=1) + "\n")
    (problem,) = verify_checkpoint(path.parent)
    assert (problem.file, problem.kind) == (manifest.MANIFEST, "changed"), change
