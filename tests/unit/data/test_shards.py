# SPDX-License-Identifier: Apache-2.0
"""The shards of a cache: written by any number of jobs, at once, and again after each was killed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from switch_t5 import errors
from switch_t5.data import cache, documents, tasks, token_stream, vocabulary


def _stream(directory, split="train") -> np.ndarray:
  stream = token_stream.TokenStream(directory, split)
  return stream.read(0, stream.tokens)


@dataclasses.dataclass
class _Texts:
  """Documents that are made up while they are read; what is read is noted, and may fail."""

  numbers: range
  read: list[int]
  fails_at: int | None = None
  faulty: frozenset[int] = frozenset()
  budget: documents.SkipBudget | None = None

  def __len__(self):
    return len(self.numbers)

  def __getitem__(self, part):
    return dataclasses.replace(self, numbers=self.numbers[part])

  def __iter__(self):
    for number in self.numbers:
      if number == self.fails_at:
        raise errors.DataError("The disk is gone.")
      self.read.append(number)
      if number in self.faulty:
        self.budget.skip(errors.DataError("A document is faulty.", value=number))
        continue
      yield f"This is the document with the number {number}."


@dataclasses.dataclass
class _MadeUp:
  """A source of such documents."""

  count: int = 4000
  read: list[int] = dataclasses.field(default_factory=list)
  fails_at: int | None = None
  faulty: frozenset[int] = frozenset()

  def documents(self, budget=None):
    train = _Texts(range(self.count), self.read, self.fails_at, self.faulty, budget)
    return {"train": train, "validation": ["One document."]}

  def provenance(self):
    return {"made": "up"}


def _made_up(skip_budget=0, **arguments) -> tasks.SpanCorruptionTask:
  path = vocabulary.embedded_vocabulary_path()
  return tasks.SpanCorruptionTask("made_up", _MadeUp(**arguments), path, skip_budget=skip_budget)


def _contents(directory) -> dict[str, bytes]:
  return {path.name: path.read_bytes() for path in directory.iterdir()}


def _shard_files(count: int) -> set[str]:
  names = {f"train-{i:05d}-of-{count:05d}" for i in range(count)} | {"validation-00000-of-00001"}
  return {f"{name}.{ending}" for name in names for ending in ("array_record", "json")}


def test_a_shard_holds_a_fixed_number_of_documents(tmp_path):
  task = _made_up()
  info = cache.write_cache(task, tmp_path / "cache", shard_documents=900)
  assert [shard.documents for shard in info.splits["train"].shards] == [900] * 4 + [400]
  assert (info.splits["train"].documents, info.splits["validation"].documents) == (4000, 1)
  assert set(_contents(tmp_path / "cache")) == _shard_files(5) | {"info.json"}
  ids = task.vocabulary().encode_batch(list(task.source.documents()["train"]))
  assert _stream(tmp_path / "cache").tolist() == [i for document in ids for i in document]


def test_shards_are_written_while_documents_are_read(tmp_path):
  with pytest.raises(errors.DataError, match="gone"):
    cache.write_cache(_made_up(fails_at=3999), tmp_path / "cache", shard_documents=1000)
  assert len(list((tmp_path / "cache").glob("train-*.array_record"))) == 3


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_several_jobs_in_any_order_write_the_files_of_one(tmp_path, order):
  task = _made_up()
  cache.write_cache(task, tmp_path / "one", shard_documents=500)
  for job in order:
    result = cache.write_cache(task, tmp_path / "three", shard_documents=500, job=job, jobs=3)
    done = order[: order.index(job) + 1]
    if len(done) < 3:
      missing = tuple(number for number in range(9) if number % 3 not in done)
      assert result == cache.Unfinished(missing, 9)
  assert result == cache.verify(tmp_path / "three")
  assert _contents(tmp_path / "three") == _contents(tmp_path / "one")


def test_a_job_reads_the_documents_of_its_own_shards_only(tmp_path):
  task = _made_up()
  cache.write_cache(task, tmp_path / "cache", shard_documents=500, job=1, jobs=3)
  assert task.source.read == [*range(500, 1000), *range(2000, 2500), *range(3500, 4000)]


def test_more_jobs_than_shards_do_no_harm(tmp_path):
  task = _made_up(count=10)
  assert cache.write_cache(task, tmp_path / "cache", job=7, jobs=8) == cache.Unfinished((0, 1), 2)
  assert list((tmp_path / "cache").iterdir()) == []
  for job in range(2):
    cache.write_cache(task, tmp_path / "cache", job=job, jobs=8)
  cache.verify(tmp_path / "cache")


def test_an_empty_split_has_one_empty_shard(tmp_path):
  info = cache.write_cache(_made_up(count=0), tmp_path / "cache")
  assert info.splits["train"].tokens == 0
  assert [shard.documents for shard in info.splits["train"].shards] == [0]
  assert token_stream.TokenStream(tmp_path / "cache", "train").tokens == 0


def test_a_job_that_failed_goes_on_where_it_was(tmp_path):
  with pytest.raises(errors.DataError, match="gone"):
    cache.write_cache(_made_up(fails_at=2100), tmp_path / "cache", shard_documents=500)
  assert set(_contents(tmp_path / "cache")) < _shard_files(8)  # and no temporary files
  with pytest.raises(errors.DataError, match="not finished") as raised:
    cache.read_info(tmp_path / "cache")
  assert "9 shards" in raised.value.rule and "4 of the shards are there" in raised.value.rule
  assert "switch_t5 cache" in raised.value.remedy
  task = _made_up()
  cache.write_cache(task, tmp_path / "cache", shard_documents=500)
  assert task.source.read == list(range(2000, 4000))
  cache.write_cache(_made_up(), tmp_path / "whole", shard_documents=500)
  assert _contents(tmp_path / "cache") == _contents(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["gone", "truncated", "no record", "half a record", "foreign"])
def test_a_shard_that_is_not_as_it_was_written_is_written_again(tmp_path, damage):
  cache.write_cache(_made_up(), tmp_path / "cache", shard_documents=500)
  whole = _contents(tmp_path / "cache")
  shard = tmp_path / "cache" / "train-00002-of-00008.array_record"
  record = shard.with_suffix(".json")
  if damage == "gone":
    shard.unlink()
  elif damage == "truncated":
    shard.write_bytes(shard.read_bytes()[:-1])
  elif damage == "no record":
    record.unlink()
  elif damage == "half a record":
    record.write_text(record.read_text()[:40])
  else:
    content = json.loads(record.read_text())
    record.write_text(json.dumps(content | {"fingerprint": "0" * 64}))
  (tmp_path / "cache" / "info.json").unlink()
  task = _made_up()
  cache.write_cache(task, tmp_path / "cache", shard_documents=500)
  assert task.source.read == list(range(1000, 1500))
  assert _contents(tmp_path / "cache") == whole


def test_shards_of_another_text_in_the_directory_are_not_taken(tmp_path):
  other = dataclasses.replace(_made_up(fails_at=2100), name="other")
  with pytest.raises(errors.DataError, match="gone"):
    cache.write_cache(other, tmp_path / "cache", shard_documents=500)
  task = _made_up()
  cache.write_cache(task, tmp_path / "cache", shard_documents=500)
  assert len(task.source.read) == 4000


def test_a_source_with_fewer_documents_than_it_says_is_refused(tmp_path):
  class Short(list):
    def __len__(self):
      return super().__len__() + 1

  task = _made_up()
  task.source.documents = lambda budget: {"train": Short(["One."]), "validation": []}
  with pytest.raises(errors.DataError, match="train are not all there"):
    cache.write_cache(task, tmp_path / "cache")


_FAULTY = frozenset({3, 700, 701, 3999})


def test_skipped_documents_are_counted_by_shard_and_left_out(tmp_path):
  task = _made_up(skip_budget=4, faulty=_FAULTY)
  info = cache.write_cache(task, tmp_path / "cache", shard_documents=500)
  assert (info.skipped, info.splits["train"].documents) == (4, 3996)
  assert [shard.skipped for shard in info.splits["train"].shards] == [1, 2, 0, 0, 0, 0, 0, 1]
  texts = [f"This is the document with the number {n}." for n in range(4000) if n not in _FAULTY]
  ids = task.vocabulary().encode_batch(texts)
  assert _stream(tmp_path / "cache").tolist() == [i for document in ids for i in document]


def test_neither_budget_nor_jobs_change_what_is_skipped(tmp_path):
  for name, budget, jobs in (("one", 4, 1), ("more", 100, 1), ("three", 4, 3)):
    for job in range(jobs):
      task = _made_up(skip_budget=budget, faulty=_FAULTY)
      cache.write_cache(task, tmp_path / name, shard_documents=500, job=job, jobs=jobs)
    assert _contents(tmp_path / name) == _contents(tmp_path / "one")


def test_more_faults_than_the_budget_stop_a_job_that_a_larger_budget_lets_go_on(tmp_path):
  with pytest.raises(errors.DataError, match=r"skip_budget = N") as raised:
    cache.write_cache(_made_up(2, faulty=_FAULTY), tmp_path / "cache", shard_documents=500)
  assert raised.value.value == 701
  task = _made_up(4, faulty=_FAULTY)
  cache.write_cache(task, tmp_path / "cache", shard_documents=500)
  assert task.source.read == list(range(500, 4000))


def test_the_budget_holds_for_the_sum_of_jobs(tmp_path):
  for job in (0, 1):  # three in the first shard, one in the second
    task = _made_up(3, faulty=_FAULTY)
    with contextlib.nullcontext() if job == 0 else pytest.raises(errors.DataError) as raised:
      cache.write_cache(task, tmp_path / "cache", shard_documents=2000, job=job, jobs=2)
  assert raised.value.value == "4 documents were skipped when it was written"
  assert "skip_budget = 4" in raised.value.remedy
  with pytest.raises(errors.DataError, match="skip_budget = 4"):
    cache.write_cache(_made_up(3, faulty=_FAULTY), tmp_path / "cache")
  assert cache.write_cache(_made_up(4, faulty=_FAULTY), tmp_path / "cache").skipped == 4


def _start_job(tmp_path, directory) -> subprocess.Popen:
  """Starts a process that writes the cache of tmp_path/long.txt, 1000 documents a shard."""
  # A shell that starts the tests in the background has SIGINT ignored, and children inherit that.
  code = f"""
import signal
from switch_t5.data import cache, tasks
signal.signal(signal.SIGINT, signal.default_int_handler)
task = tasks.get_task("text_span_corruption", text_files={str(tmp_path / "long.txt")!r})
cache.write_cache(task, {str(directory)!r}, shard_documents=1000)
"""
  return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_job_leaves_whole_shards_and_is_started_again(tmp_path, fixture_text, kill):
  (tmp_path / "long.txt").write_text((fixture_text.read_text() + "\n\n") * 2000)
  directory = tmp_path / "caches" / "cache"
  job = _start_job(tmp_path, directory)
  while len(list(directory.glob("*.json"))) < 3:
    assert job.poll() is None
    time.sleep(0.001)
  job.send_signal(kill)
  assert job.wait(timeout=300) != 0
  with pytest.raises(errors.DataError, match="not finished"):
    cache.read_info(directory)
  if kill == signal.SIGINT:  # there was time to tidy up
    assert list(directory.glob(".*")) == []
  before = {path: path.stat().st_mtime_ns for path in directory.glob("*.json")}
  assert _start_job(tmp_path, directory).wait(timeout=300) == 0
  cache.verify(directory)
  assert all(path.stat().st_mtime_ns == time for path, time in before.items())
  assert list(directory.glob(".*")) == []


def test_the_same_job_started_twice_at_once_ends_well_twice(tmp_path, fixture_text):
  (tmp_path / "long.txt").write_text((fixture_text.read_text() + "\n\n") * 500)
  jobs = [_start_job(tmp_path, tmp_path / "cache") for _ in range(2)]
  assert [job.wait(timeout=300) for job in jobs] == [0, 0]
  cache.verify(tmp_path / "cache")
  assert list((tmp_path / "cache").glob(".*")) == []


@dataclasses.dataclass(frozen=True)
class _Overtaken:
  """A source of documents during whose reading another process writes the same cache."""

  directory: Path

  def documents(self, budget=None):
    return {"train": self, "validation": ["One document."]}

  def provenance(self):
    return {"made": "up"}

  def __len__(self):
    return 100

  def __getitem__(self, part):
    return self

  def __iter__(self):
    cache.write_cache(_made_up(count=100), self.directory)
    yield from _Texts(range(100), [])


def test_a_job_that_is_overtaken_while_it_writes_finds_the_cache_done(tmp_path):
  task = dataclasses.replace(_made_up(), source=_Overtaken(tmp_path / "cache"))
  assert cache.write_cache(task, tmp_path / "cache") == cache.verify(tmp_path / "cache")
  assert set(_contents(tmp_path / "cache")) == _shard_files(1) | {"info.json"}
