# SPDX-License-Identifier: Apache-2.0
"""The cache of tokens: what it holds, that it is all or nothing, and that damage is found."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest

from switch_t5 import errors
from switch_t5.data import cache, documents, shards, tasks, text_files, token_stream, vocabulary


@pytest.fixture
def damaged(fixture_cache, tmp_path):
  """A copy of the cache that may be damaged."""
  return shutil.copytree(fixture_cache, tmp_path / "damaged")


def _stream(directory, split="train") -> np.ndarray:
  stream = token_stream.TokenStream(directory, split)
  return stream.read(0, stream.tokens)


def test_the_stream_holds_each_document_once_without_separators(fixture_task, fixture_cache):
  vocab = fixture_task.vocabulary()
  texts = fixture_task.source.documents()
  for split in documents.SPLITS:
    tokens = _stream(fixture_cache, split).tolist()
    ids = [vocab.encode(text) for text in texts[split]]
    assert len(tokens) == sum(map(len, ids))
    joined = ",".join(map(str, tokens))
    assert all(",".join(map(str, document)) in joined for document in ids)
    assert vocab.eos_id not in tokens


def test_documents_are_shuffled(fixture_task, fixture_cache, fixture_text):
  texts = documents.split_documents(list(text_files.read_documents(str(fixture_text))))["train"]
  in_order = [i for ids in fixture_task.vocabulary().encode_batch(texts) for i in ids]
  assert _stream(fixture_cache).tolist() != in_order


def test_any_range_is_read_across_records_and_shards(tmp_path):
  tokens = np.random.default_rng(0).integers(0, 8100, 11_000).astype(np.uint16)
  written = []
  for index, part in enumerate(np.split(tokens, [5000, 5001, 9100])):
    path = tmp_path / f"train-{index:05d}-of-00004.array_record"
    shards._write_file(path, shards._records([part], shards.RECORD_LENGTH))
    size, digest = path.stat().st_size, shards.sha256(path)
    written.append(shards.Shard(path.name, 1, len(part), size, digest))
  split = cache.Split(tuple(written))
  info = cache.CacheInfo(
    "task", cache.FORMAT_VERSION, {}, {}, {"train": split}, shards.RECORD_LENGTH, "<u2", {}
  )
  (tmp_path / "info.json").write_text(json.dumps(dataclasses.asdict(info)))
  stream = token_stream.TokenStream(tmp_path, "train")
  assert stream.tokens == 11_000
  for start, stop in [
    (0, 11_000),
    (0, 1),
    (2047, 2049),
    (4999, 5002),
    (9000, 9200),
    (10_999, 11_000),
  ]:
    read = stream.read(start, stop)
    assert read.dtype == np.int32
    np.testing.assert_array_equal(read, tokens[start:stop])


def test_the_number_of_shards_does_not_change_the_stream(fixture_task, fixture_cache, tmp_path):
  cache.write_cache(fixture_task, tmp_path / "one")
  for split in documents.SPLITS:
    np.testing.assert_array_equal(_stream(tmp_path / "one", split), _stream(fixture_cache, split))


def _contents(directory) -> dict[str, bytes]:
  return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_writing_again_gives_the_same_bytes(fixture_task, fixture_cache, tmp_path):
  cache.write_cache(fixture_task, tmp_path / "again", shard_documents=4)
  assert _contents(tmp_path / "again") == _contents(fixture_cache)


def test_a_finished_cache_is_found_done(fixture_task, fixture_cache):
  before = {path: path.stat().st_mtime_ns for path in fixture_cache.iterdir()}
  info = cache.write_cache(fixture_task, fixture_cache)
  assert info == cache.verify(fixture_cache)
  assert before == {path: path.stat().st_mtime_ns for path in fixture_cache.iterdir()}


def test_the_directory_follows_text_and_vocabulary(fixture_task, tmp_path):
  directory = cache.cache_directory(tmp_path, fixture_task)
  assert directory == cache.cache_directory(tmp_path, fixture_task)
  assert directory.parent == tmp_path and directory.name.startswith("text_span_corruption-")
  other = dataclasses.replace(fixture_task, extra_ids=10)
  assert cache.cache_directory(tmp_path, other) != directory


def test_what_a_killed_job_left_does_not_disturb_the_next(tmp_path, fixture_task):
  directory = tmp_path / "cache"
  directory.mkdir()
  (directory / ".train-00000-of-00001.array_record.abc.incomplete").write_bytes(b"half")
  (directory / "train-00000-of-00001.array_record").write_bytes(b"without a record")
  cache.write_cache(fixture_task, directory)
  cache.verify(directory)
  assert list(directory.glob(".*")) == []


def test_a_missing_cache_is_refused_with_the_command_that_writes_it(tmp_path):
  with pytest.raises(errors.DataError, match="switch_t5 cache") as raised:
    cache.read_info(tmp_path / "none")
  assert raised.value.exit_code == 3


def test_a_directory_that_cannot_be_written_is_named(tmp_path, fixture_task):
  (tmp_path / "file").write_text("")
  with pytest.raises(errors.DataError, match="cannot be written"):
    cache.write_cache(fixture_task, tmp_path / "file" / "cache")
  assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_missing_or_truncated_shard_is_named(damaged):
  shard = damaged / "train-00001-of-00003.array_record"
  content = shard.read_bytes()
  shard.write_bytes(content[:-1])
  with pytest.raises(errors.DataError, match=shard.name):
    cache.read_info(damaged)
  shard.unlink()
  with pytest.raises(errors.DataError, match=f"{shard.name}(.|\n)*missing"):
    cache.read_info(damaged)


def test_the_remedy_of_a_damaged_shard_mends_it(damaged, fixture_task, fixture_cache):
  shard = damaged / "train-00001-of-00003.array_record"
  shard.write_bytes(shard.read_bytes()[::-1])
  with pytest.raises(errors.DataError, match=r"delete this file, and info\.json") as raised:
    cache.verify(damaged)
  raised.value.value.unlink()
  (damaged / "info.json").unlink()
  cache.write_cache(fixture_task, damaged, shard_documents=4)
  assert _contents(damaged) == _contents(fixture_cache)


def test_one_flipped_bit_is_found_by_verify_and_named(damaged):
  for shard in sorted(damaged.glob("*.array_record")):
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(errors.DataError, match=shard.name):
      cache.verify(damaged)
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
  cache.verify(damaged)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"format_version": 1', "null"])
def test_a_damaged_info_file_is_named(damaged, content):
  (damaged / "info.json").write_text(content)
  with pytest.raises(errors.DataError, match=r"info\.json"):
    cache.read_info(damaged)


def test_another_format_version_is_refused(damaged):
  info = json.loads((damaged / "info.json").read_text())
  (damaged / "info.json").write_text(json.dumps(info | {"format_version": 999}))
  with pytest.raises(errors.DataError, match="999"):
    cache.read_info(damaged)


def test_another_vocabulary_is_refused(fixture_task, fixture_cache):
  other = vocabulary.Vocabulary(fixture_task.vocabulary_path, extra_ids=10)
  with pytest.raises(errors.DataError, match="another vocabulary"):
    cache.check_vocabulary(cache.read_info(fixture_cache), other)
  with pytest.raises(errors.DataError, match="another vocabulary"):
    cache.write_cache(dataclasses.replace(fixture_task, extra_ids=10), fixture_cache)


def test_another_text_is_refused(tmp_path, fixture_cache):
  (tmp_path / "other.txt").write_text("One.\n\nTwo.")
  task = tasks.get_task("text_span_corruption", text_files=str(tmp_path / "other.txt"))
  with pytest.raises(errors.DataError, match="another text"):
    cache.write_cache(task, fixture_cache)


def test_an_unknown_split_is_refused(fixture_cache):
  with pytest.raises(errors.DataError, match="Did you mean validation"):
    token_stream.TokenStream(fixture_cache, "validaton")
