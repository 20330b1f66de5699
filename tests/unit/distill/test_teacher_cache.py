# SPDX-License-Identifier: Apache-2.0
"""A teacher's cache: what is written is read, by number of the row, and nothing else passes for it."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from switch_t5.distill import teacher_cache
from switch_t5.distill.teacher_cache import Contents, TeacherCache
from switch_t5.distill.teacher_cache_writer import TeacherCacheWriter
from switch_t5.errors import DataError
from switch_t5.storage import objects
from switch_t5.storage.location import location

T, K, ROWS, SHARD = 3, 2, 10, 4
IDENTITY = {
  "task": "t",
  "source": {"text": "abc"},
  "lengths": {"inputs": 8, "targets": T},
  "seed": 1,
}
CONTENTS = Contents(
  teacher="f00d",
  teacher_dtype="float32",
  identity=IDENTITY,
  temperature=2.0,
  num_ids=8100,
  k=K,
  length=T,
  probs_dtype="float16",
)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
  """Shards of 4 rows, so that a cache has several."""
  monkeypatch.setattr(teacher_cache, "_MOST_SHARD_ROWS", SHARD)


def said(contents=CONTENTS, rows=ROWS):
  """Returns ids and probabilities [rows, T, K]."""
  rng, shape = np.random.default_rng(0), (rows, contents.length, contents.k)
  ids = rng.integers(0, contents.num_ids, shape)
  ids[0, 0, 0] = contents.num_ids - 1
  return ids, rng.random(shape).astype(contents.probs_dtype)


def batches(part, contents=CONTENTS, batch_size=3):
  """Yields what is said of the rows of a part, in batches that may go beyond it."""
  ids, probs = said(contents, ROWS + batch_size)
  for start in range(part.start, part.stop, batch_size):
    rows = slice(start, start + batch_size)
    yield ids[rows], probs[rows]


def write(directory, contents=CONTENTS, num_rows=ROWS, numbers=None):
  """Writes the missing shards, or those of some numbers; returns the writer."""
  writer = TeacherCacheWriter(directory, contents)
  writer.begin()
  parts = writer.parts(num_rows)
  for part in writer.missing(parts if numbers is None else [parts[n] for n in numbers]):
    writer.write(part, batches(part, contents))
  return writer


def files(directory):
  """Returns when each file was written, by name."""
  return {path.name: path.stat().st_mtime_ns for path in directory.iterdir()}


@pytest.mark.parametrize(
  ("num_ids", "probs_dtype", "row"),
  [
    (256, "float16", T * K * (1 + 2)),
    (257, "float16", T * K * (2 + 2)),
    (65536, "float32", T * K * (2 + 4)),
    (65537, "float32", T * K * (4 + 4)),
  ],
)
def test_rows_come_back_in_any_order_from_the_smallest_ids(num_ids, probs_dtype, row, tmp_path):
  contents = dataclasses.replace(CONTENTS, num_ids=num_ids, probs_dtype=probs_dtype)
  write(tmp_path, contents)
  ids, probs = said(contents, ROWS + 3)
  numbers = [9, 0, 4, 3, 9, 5]
  read = TeacherCache(tmp_path).read(numbers)
  assert {name: a.dtype.name for name, a in read.items()} == {
    "teacher_ids": "int32",
    "teacher_probs": "float32",
  }
  np.testing.assert_array_equal(read["teacher_ids"], ids[numbers])
  np.testing.assert_array_equal(read["teacher_probs"], probs[numbers].astype(np.float32))
  sizes = sorted(path.stat().st_size for path in tmp_path.glob("*.bin"))
  assert sizes == [2 * row, 4 * row, 4 * row]


def test_a_shard_is_rows_of_ids_then_probabilities_little_endian(tmp_path):
  write(tmp_path)
  ids, probs = said(rows=ROWS + 3)
  raw = (tmp_path / "rows-000000000004-000000000008.bin").read_bytes()
  half = T * K * 2
  for row in range(4, 8):
    record = raw[(row - 4) * 2 * half :][: 2 * half]
    np.testing.assert_array_equal(np.frombuffer(record[:half], "<u2"), ids[row].ravel())
    np.testing.assert_array_equal(np.frombuffer(record[half:], "<f2"), probs[row].ravel())


def test_who_is_stopped_within_a_shard_goes_on_with_it(tmp_path):
  writer = TeacherCacheWriter(tmp_path, CONTENTS)
  writer.begin()
  parts = writer.parts(ROWS)
  writer.write(parts[0], batches(parts[0]))
  before = files(tmp_path)

  def stopped():
    yield next(batches(parts[1]))
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    writer.write(parts[1], stopped())
  assert files(tmp_path) == before
  again = TeacherCacheWriter(tmp_path, CONTENTS)
  assert again.missing(parts) == [range(4, 8), range(8, 10)]
  write(tmp_path)
  assert before.items() <= files(tmp_path).items()
  assert TeacherCache(tmp_path).num_rows == ROWS


def test_a_file_that_a_killed_process_left_is_removed_at_the_end(tmp_path):
  left = tmp_path / ".rows-000000000000-000000000004.bin.x.incomplete"
  left.write_bytes(b"half")
  write(tmp_path).finish()
  assert not left.exists()
  assert TeacherCache(tmp_path).num_rows == ROWS


def test_a_cache_grows_and_never_shrinks(tmp_path):
  write(tmp_path, num_rows=6)
  before = files(tmp_path)
  assert TeacherCache(tmp_path).num_rows == 6
  writer = write(tmp_path, num_rows=10)
  assert TeacherCache(tmp_path).num_rows == 10
  assert files(tmp_path)["rows-000000000000-000000000004.bin"] == before.pop(
    "rows-000000000000-000000000004.bin"
  )
  assert not any("000000000006" in name for name in files(tmp_path))
  assert writer.missing(writer.parts(6)) == []
  np.testing.assert_array_equal(
    TeacherCache(tmp_path).read(range(10))["teacher_ids"], said(rows=ROWS + 3)[0][:10]
  )


def test_rows_after_a_gap_do_not_count(tmp_path):
  write(tmp_path, numbers=[0, 2])  # those of a job of two
  assert TeacherCache(tmp_path).num_rows == 4
  write(tmp_path, numbers=[1])
  assert TeacherCache(tmp_path).num_rows == ROWS


CHANGES = {
  "another seed": ({"seed": 2}, 2.0, "data's seed: 1, now 2"),
  "another text": ({"source": {"text": "xyz"}}, 2.0, "{'text': 'abc'}, now {'text': 'xyz'}"),
  "streamed": ({"reader": "streaming"}, 2.0, "data's reader: None, now streaming"),
  "another temperature": ({}, 1.0, "temperature: 2.0, now 1.0"),
}


@pytest.mark.parametrize("change, temperature, said", CHANGES.values(), ids=CHANGES)
def test_a_run_of_another_stream_or_temperature_is_refused(change, temperature, said, tmp_path):
  write(tmp_path)
  cache = TeacherCache(tmp_path)
  with pytest.raises(DataError) as error:
    cache.check(IDENTITY | change, temperature, ROWS, 8192)
  assert said in str(error.value) and str(tmp_path) in str(error.value)


def test_a_run_that_the_rows_or_the_ids_do_not_suffice_for_is_refused(tmp_path):
  write(tmp_path)
  cache = TeacherCache(tmp_path)
  cache.check(IDENTITY, 2.0, ROWS, 8100)
  with pytest.raises(DataError, match=r"cache_teacher\.num_rows=11"):
    cache.check(IDENTITY, 2.0, ROWS + 1, 8100)
  with pytest.raises(DataError, match=r"cache_teacher\.num_rows=11"):
    cache.read([3, ROWS])
  with pytest.raises(DataError, match=r"vocab_size = 8099"):
    cache.check(IDENTITY, 2.0, ROWS, 8099)


@pytest.mark.parametrize("name", ["teacher", "temperature", "k", "num_ids", "probs_dtype"])
def test_a_directory_with_another_cache_is_not_written_to(name, tmp_path):
  write(tmp_path, num_rows=4)
  changed = {"teacher": "beef", "temperature": 1.0, "k": 3, "num_ids": 9, "probs_dtype": "float32"}
  with pytest.raises(DataError, match=f"{name}: {getattr(CONTENTS, name)}, now {changed[name]}"):
    TeacherCacheWriter(tmp_path, dataclasses.replace(CONTENTS, **{name: changed[name]}))


def _cut(path):
  path.write_bytes(path.read_bytes()[:-1])


def _flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


@pytest.mark.parametrize(
  "harm", [_cut, _flip, lambda path: path.unlink()], ids=["cut", "flip", "gone"]
)
def test_a_damaged_shard_is_named_and_written_again(harm, tmp_path):
  write(tmp_path)
  path = tmp_path / "rows-000000000004-000000000008.bin"
  before = path.read_bytes()
  harm(path)
  with pytest.raises(DataError, match=str(path)):
    TeacherCache(tmp_path)
  path.unlink(missing_ok=True)  # as the remedy says
  write(tmp_path)
  assert path.read_bytes() == before
  assert TeacherCache(tmp_path).num_rows == ROWS


@pytest.mark.parametrize("file", ["contents.json", "rows-000000000004-000000000008.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_damaged_json_file_is_named(file, content, tmp_path):
  write(tmp_path)
  (tmp_path / file).write_text(content)
  for opens in (TeacherCache, write):
    with pytest.raises(DataError, match=str(tmp_path / file)):
      opens(tmp_path)


def test_a_word_that_changed_in_the_contents_is_noticed(tmp_path):
  write(tmp_path)
  fields = json.loads((tmp_path / "contents.json").read_text())
  (tmp_path / "contents.json").write_text(json.dumps(fields | {"temperature": 1.0}))
  with pytest.raises(DataError, match=r"contents\.json"):
    TeacherCache(tmp_path)


def test_no_cache_and_no_room_for_one_are_said(tmp_path):
  with pytest.raises(DataError, match="There is no cache of a teacher"):
    TeacherCache(tmp_path / "nothing")
  with pytest.raises(DataError, match="24 bytes a row"):
    TeacherCacheWriter(tmp_path / "nothing", CONTENTS).check_room(10**15)
  (tmp_path / "file").write_text("")
  with pytest.raises(DataError, match="TEACHER_CACHE"):
    TeacherCacheWriter(tmp_path / "file" / "cache", CONTENTS).begin()


def test_one_in_object_storage_is_the_same(remote_prefix, tmp_path):
  directory = location(f"{remote_prefix}/cache")
  writer = write(directory, numbers=[2])
  assert [part.start for part in writer.missing(writer.parts(ROWS))] == [0, SHARD]
  write(directory).finish()
  write(tmp_path).finish()
  for name in objects.sizes(directory):
    assert objects.read(directory / name) == (tmp_path / name).read_bytes()
  cache, local = TeacherCache(directory), TeacherCache(tmp_path)
  assert cache.num_rows == ROWS
  for numbers in (range(4), [7, 8, 9], [1, 9, 4]):
    found, wanted = cache.read(numbers), local.read(numbers)
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_one_in_object_storage_is_verified_when_it_is_read(gs_prefix):
  directory = location(f"{gs_prefix}/cache")
  write(directory)
  name = teacher_cache.shard_file(range(SHARD, 2 * SHARD))
  content = bytearray(objects.read(directory / name))
  content[0] ^= 1
  objects.write(directory / name, bytes(content))
  cache = TeacherCache(directory)
  with pytest.raises(DataError, match=f"damaged(.|\n)*{directory / name}"):
    cache.read(range(ROWS))
  objects.write(directory / name, bytes(content)[:-1])
  with pytest.raises(DataError, match=f"damaged(.|\n)*{directory / name}"):
    TeacherCache(directory)
