# SPDX-License-Identifier: Apache-2.0
"""Text, vocabularies and caches in object storage: as on a disk, and read from copies on the host."""

from __future__ import annotations

import asyncio
import functools
import gzip
import json
import shutil
import threading
from pathlib import Path

import flaky_proxy
import numpy as np
import object_stores
import pytest

from switch_t5 import errors
from switch_t5.data import (
  cache,
  cache_copies,
  file_copies,
  shards,
  tasks,
  text_files,
  token_stream,
  vocabulary,
)
from switch_t5.data.downstream import superglue_data
from switch_t5.storage import files, objects, retries, transfers
from switch_t5.storage.location import location


@pytest.fixture(autouse=True)
def copies(tmp_path, monkeypatch) -> Path:
  """Where this test's copies are."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
  return file_copies.copies()


@pytest.fixture
def remote_cache(remote_prefix, fixture_cache):
  """The cache of the fixture in object storage."""
  directory = location(f"{remote_prefix}/{fixture_cache.name}")
  for path in fixture_cache.iterdir():
    transfers.upload(path, directory / path.name)
  return directory


def _stream(directory) -> np.ndarray:
  stream = token_stream.TokenStream(directory, "train")
  return stream.read(0, stream.tokens)


def test_jobs_write_a_cache_that_is_the_same_as_on_a_disk(
  remote_prefix, fixture_task, fixture_cache
):
  directory = cache.cache_directory(remote_prefix, fixture_task)
  for job in (1, 2):
    unfinished = cache.write_cache(fixture_task, directory, shard_documents=4, job=job, jobs=3)
    assert isinstance(unfinished, cache.Unfinished)
  assert cache.write_cache(fixture_task, directory, shard_documents=4) == cache.read_info(
    fixture_cache
  )
  on_disk = {path.name: path.read_bytes() for path in fixture_cache.iterdir()}
  assert {name: objects.read(directory / name) for name in objects.sizes(directory)} == on_disk


def test_a_cache_is_read_from_its_copy(remote_cache, fixture_cache):
  copy = cache_copies.copy_cache(remote_cache)
  np.testing.assert_array_equal(_stream(copy), _stream(fixture_cache))
  assert cache_copies.copy_cache(fixture_cache) == fixture_cache


def test_a_copy_is_made_once(remote_cache, copies):
  copy = cache_copies.copy_cache(remote_cache)
  before = {path: path.stat().st_mtime_ns for path in copy.iterdir()}
  assert cache_copies.copy_cache(remote_cache) == copy
  assert {path: path.stat().st_mtime_ns for path in copy.iterdir()} == before
  assert [path.name for path in copies.iterdir()] == [copy.name]


def test_a_copy_that_was_not_finished_is_gone_on_with(gs_prefix, fixture_cache):
  directory = location(f"{gs_prefix}/{fixture_cache.name}")
  for path in fixture_cache.iterdir():
    transfers.upload(path, directory / path.name)
  copy = cache_copies.copy_cache(directory)
  kept, *lost = sorted(copy.glob("train*"))
  before = kept.stat().st_mtime_ns
  for path in (*lost, copy / cache.INFO_FILE):
    path.unlink()
  (copy / ".train.0.incomplete").write_bytes(b"of a process that was killed")
  assert cache_copies.copy_cache(directory) == copy
  assert kept.stat().st_mtime_ns == before
  assert not list(copy.glob(".*"))


def test_processes_of_a_host_copy_one_after_the_other(gs_prefix, fixture_cache):
  directory = location(f"{gs_prefix}/{fixture_cache.name}")
  for path in fixture_cache.iterdir():
    transfers.upload(path, directory / path.name)
  copy = cache_copies.copy_cache(directory)
  (copy / cache.INFO_FILE).unlink()
  with cache_copies._locked(copy):
    other = threading.Thread(target=cache_copies.copy_cache, args=(directory,))
    other.start()
    other.join(timeout=0.5)
    assert other.is_alive() and not (copy / cache.INFO_FILE).exists()
  other.join(timeout=60)
  assert (copy / cache.INFO_FILE).exists()


def test_a_shard_that_is_not_what_was_written_is_found(remote_cache):
  name = sorted(name for name in objects.sizes(remote_cache) if name.endswith("array_record"))[0]
  content = bytearray(objects.read(remote_cache / name))
  content[100] ^= 1
  objects.write(remote_cache / name, bytes(content))
  with pytest.raises(errors.DataError, match=f"damaged(.|\n)*{remote_cache}/{name}(.|\n)*SHA-256"):
    cache_copies.copy_cache(remote_cache)
  with pytest.raises(errors.DataError, match="damaged"):
    cache.verify(remote_cache)


def test_a_disk_that_is_too_small_is_said_before_anything_is_copied(
  gs_prefix, fixture_cache, copies, monkeypatch
):
  directory = location(f"{gs_prefix}/{fixture_cache.name}")
  for path in fixture_cache.iterdir():
    transfers.upload(path, directory / path.name)
  monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 1000))
  with pytest.raises(errors.DataError, match=r"0\.0 GB are to be copied(.|\n)*XDG_CACHE_HOME"):
    cache_copies.copy_cache(directory)
  assert not list(copies.glob("*/*.array_record"))


def test_a_cache_that_is_not_there_is_to_be_written_first(remote_prefix):
  with pytest.raises(errors.DataError, match=f"no cache of tokens(.|\n)*{remote_prefix}/none"):
    cache_copies.copy_cache(location(f"{remote_prefix}/none"))


def test_text_has_the_same_documents_and_provenance(remote_prefix, tmp_path):
  lines = b'{"text": "One."}\n{"text": "Two."}\n'
  (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines))
  (tmp_path / "b.txt").write_text("Three.\nFour.\n")
  for path in tmp_path.glob("[ab].*"):
    transfers.upload(path, location(f"{remote_prefix}/{path.name}"))
  local, remote = (
    text_files.TextFiles(text_files.find_files(f"{folder}/*.txt,{folder}/a.jsonl.gz"))
    for folder in (tmp_path, remote_prefix)
  )
  assert remote.paths == (f"{remote_prefix}/a.jsonl.gz", f"{remote_prefix}/b.txt")
  assert remote.provenance() == local.provenance()
  assert remote.documents() == local.documents()


def test_a_long_text_is_read_in_ranges(gs_prefix, monkeypatch):
  monkeypatch.setattr(files, "_RANGE", 1000)
  lines = [json.dumps({"text": f"{i} " * 100}) for i in range(200)]
  objects.write(location(f"{gs_prefix}/a.jsonl"), "\n".join(lines).encode())
  read = [line.text for line in text_files.read_lines(f"{gs_prefix}/a.jsonl")]
  assert read == lines


def test_a_glob_that_matches_nothing_is_named(remote_prefix):
  with pytest.raises(errors.DataError, match=rf"{remote_prefix}/\*\.txt"):
    text_files.find_files(f"{remote_prefix}/*.txt")


def test_a_vocabulary_is_the_same_and_other_libraries_get_a_copy(remote_prefix, fixture_text):
  own = vocabulary.embedded_vocabulary_path()
  path = f"{remote_prefix}/my.model"
  transfers.upload(Path(own), location(path))
  assert vocabulary.Vocabulary(path).fingerprint == vocabulary.Vocabulary(own).fingerprint
  task = tasks.get_task("text_span_corruption", text_files=str(fixture_text), vocabulary_path=path)
  assert Path(task.vocabulary_path).read_bytes() == Path(own).read_bytes()
  with pytest.raises(errors.DataError, match=f"vocabulary file(.|\n)*{remote_prefix}/other.model"):
    tasks.get_task(
      "text_span_corruption",
      text_files=str(fixture_text),
      vocabulary_path=f"{remote_prefix}/other.model",
    ).vocabulary()


def test_a_shard_has_no_name_before_it_is_whole(remote_prefix):
  path = location(f"{remote_prefix}/train-00000.array_record")
  with pytest.raises(RuntimeError), files.committed(path) as temporary:
    temporary.write_bytes(b"half")
    raise RuntimeError
  assert not files.exists(path) and not temporary.exists()
  assert shards.write_pieces(path, [np.arange(5, dtype="<u2")]).size == files.size(path)


def test_a_cache_is_written_and_copied_through_a_flaky_store(
  gs_store, gs_prefix, fixture_task, fixture_cache, monkeypatch
):
  monkeypatch.setattr("gcsfs.retry.asyncio.sleep", functools.partial(asyncio.sleep, 0))
  monkeypatch.setattr(retries, "FIRST_DELAY", 0.01)
  rates = {flaky_proxy.REFUSED: 0.08, flaky_proxy.RESET: 0.08, flaky_proxy.LOST: 0.08}
  with flaky_proxy.flaky(gs_store, seed=1, rates=rates) as proxy:
    for name, value in object_stores.environment("gs", proxy.address).items():
      monkeypatch.setenv(name, value)
    directory = cache.cache_directory(gs_prefix, fixture_task)
    cache.write_cache(fixture_task, directory, shard_documents=4)
    copy = cache_copies.copy_cache(directory)
  np.testing.assert_array_equal(_stream(copy), _stream(fixture_cache))
  assert sum(proxy.happened[fault] for fault in rates) >= 5, proxy.happened


def test_a_data_set_s_own_files_are_copied(gs_prefix):
  row = {"question": "is it", "passage": "It is.", "idx": 0, "label": True}
  objects.write(location(f"{gs_prefix}/BoolQ/train.jsonl"), json.dumps(row).encode())
  names = superglue_data.BOOLQ.files.values()
  folder = file_copies.copy_folder(location(f"{gs_prefix}/BoolQ"), names)
  assert [path.name for path in folder.iterdir()] == ["train.jsonl"]
  assert superglue_data.BOOLQ.examples(folder, "train") == [row | {"label": 1}]


@pytest.mark.parametrize("end", [b"\r", b"\n", b"\r\n", b"\r\r", b"\0"])
def test_an_object_has_all_bytes_of_its_file(remote_prefix, tmp_path, end):
  (tmp_path / "file").write_bytes(b"some\r\nbytes" + end)
  transfers.upload(tmp_path / "file", location(f"{remote_prefix}/file"))
  assert objects.read(location(f"{remote_prefix}/file")) == b"some\r\nbytes" + end
