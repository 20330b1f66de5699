# SPDX-License-Identifier: Apache-2.0
"""A task on the frozen text, and its cache."""

from __future__ import annotations

from pathlib import Path

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
  cache.write_cache(fixture_task, directory, shard_tokens=500)
  return directory
