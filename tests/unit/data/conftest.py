# SPDX-License-Identifier: Apache-2.0
"""A task on the frozen text, and its cache."""

from __future__ import annotations

from pathlib import Path

import c4_form
import pytest

from switch_t5.data import cache, tasks

ASSETS = Path(__file__).parents[3] / "data"


@pytest.fixture(scope="session")
def fixture_text() -> Path:
  return ASSETS / "fixture.txt"


@pytest.fixture(scope="session")
def fixture_task(fixture_text) -> tasks.SpanCorruptionTask:
  return tasks.get_task("text_span_corruption", text_files=str(fixture_text))


@pytest.fixture(scope="session")
def fixture_cache(fixture_task, tmp_path_factory) -> Path:
  """A cache with three shards of the train split; not to be written to."""
  directory = cache.cache_directory(tmp_path_factory.mktemp("cache"), fixture_task)
  cache.write_cache(fixture_task, directory, shard_documents=4)
  return directory


@pytest.fixture(scope="session")
def tfds_data_dir(tmp_path_factory) -> Path:
  """Both versions of C4 and German mC4, small, as TFDS prepares them; not to be written to."""
  folder = tmp_path_factory.mktemp("tfds")
  for version in ("2.2.0", "3.1.0"):
    c4_form.prepare(folder, "en", version, {"train": 60, "validation": 20})
  c4_form.prepare(folder, "multilingual", "3.0.1", {"de": 60, "de-validation": 20})
  return folder
