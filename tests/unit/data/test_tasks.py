# SPDX-License-Identifier: Apache-2.0
"""The known tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from switch_t5 import errors
from switch_t5.data import embedded_corpus, tasks


def test_the_known_tasks_have_the_embedded_vocabulary(fixture_text):
  for task in (
    tasks.get_task("embedded_span_corruption"),
    tasks.get_task("text_span_corruption", text_files=str(fixture_text)),
  ):
    assert task.vocabulary().size == 8100


def test_an_unknown_task_is_refused_with_the_nearest_name():
  with pytest.raises(errors.ConfigError, match="Did you mean embedded_span_corruption"):
    tasks.get_task("embeded_span_corruption")


def test_text_files_must_be_given_where_they_are_read_and_only_there(fixture_text):
  with pytest.raises(errors.ConfigError, match="TEXT_FILES"):
    tasks.get_task("text_span_corruption")
  with pytest.raises(errors.ConfigError, match="TEXT_FILES"):
    tasks.get_task("embedded_span_corruption", text_files=str(fixture_text))


def test_the_fingerprint_follows_text_and_vocabulary(tmp_path, fixture_text, fixture_task):
  other = tmp_path / "fixture.txt"
  other.write_text(fixture_text.read_text())
  assert tasks.get_task("text_span_corruption", text_files=str(other)).fingerprint() == (
    fixture_task.fingerprint()
  )
  other.write_text(fixture_text.read_text() + "One more sentence.")
  changed = tasks.get_task("text_span_corruption", text_files=str(other)).fingerprint()
  assert changed != fixture_task.fingerprint()


def test_the_fingerprint_needs_the_vocabulary(tmp_path, fixture_text):
  task = tasks.get_task(
    "text_span_corruption", text_files=str(fixture_text), vocabulary_path=tmp_path / "gone.model"
  )
  with pytest.raises(errors.DataError, match=r"gone\.model"):
    task.fingerprint()


def test_a_task_of_the_users_own_is_found_by_name(monkeypatch):
  monkeypatch.setattr(tasks, "_added", {})
  mine = tasks.SpanCorruptionTask("mine", embedded_corpus.EmbeddedCorpus(), "mine.model")
  tasks.add_task(mine)
  assert tasks.get_task("mine") is mine
  with pytest.raises(errors.ConfigError, match="taken"):
    tasks.add_task(mine)
  with pytest.raises(errors.ConfigError, match="Did you mean mine"):
    tasks.get_task("mien")


def test_tasks_share_a_vocabulary_until_its_file_changes(tmp_path, fixture_task):
  path = tmp_path / "my.model"
  path.write_bytes(Path(fixture_task.vocabulary_path).read_bytes())
  first, second = (
    tasks.SpanCorruptionTask(name, embedded_corpus.EmbeddedCorpus(), str(path)) for name in "ab"
  )
  assert first.vocabulary() is second.vocabulary()
  path.write_bytes(b"no vocabulary")
  with pytest.raises(errors.DataError, match=r"my\.model"):
    first.vocabulary()
