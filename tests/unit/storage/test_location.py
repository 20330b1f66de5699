# SPDX-License-Identifier: Apache-2.0
"""Paths of file systems and of object stores."""

from __future__ import annotations

import pathlib

import pytest

from switch_t5.errors import ConfigError
from switch_t5.storage.location import is_remote, location


@pytest.mark.parametrize("path", ["runs/demo", "/data/run", pathlib.Path("a") / "b"])
def test_a_local_path_is_pathlibs(path):
  assert location(path) == pathlib.Path(path)
  assert isinstance(location(path), pathlib.Path)
  assert not is_remote(path)


@pytest.mark.parametrize("path", ["hdfs://host/run", "http://host/run", "gs:/bucket/run", "gs://"])
def test_another_scheme_or_no_bucket_is_refused(path):
  with pytest.raises(ConfigError, match="value:  " + path):
    location(path)


def test_without_its_library_a_store_is_refused_with_the_command_that_installs_it(monkeypatch):
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  with pytest.raises(ConfigError, match=r"pip install 'switch_t5\[gcs\]'"):
    location("gs://bucket/run")


def test_files_on_a_store_are_written_listed_and_deleted(remote_prefix):
  folder = location(remote_prefix) / "run"
  assert is_remote(folder)
  assert not folder.exists()
  (folder / "deep" / "one.txt").write_text("1")
  (folder / "two.txt").write_text("2")
  assert sorted(path.name for path in folder.iterdir()) == ["deep", "two.txt"]
  assert (folder / "deep" / "one.txt").read_text() == "1"
  with pytest.raises(FileNotFoundError):
    (folder / "three.txt").read_bytes()
  folder.rmtree()
  assert not folder.exists()
