# SPDX-License-Identifier: Apache-2.0
"""The mode `cache`: what it says of a cache that one job writes, or several."""

from __future__ import annotations

import re

import pytest
import runs

from switch_t5.cli import cache, dataset
from switch_t5.data.cache import Unfinished


def test_jobs_say_what_is_there_and_which_jobs_are_missing(tmp_path):
  code, output, _ = runs.run_here("cache", *runs.tiny_flags(tmp_path), "--job=1/2")
  assert code == 0
  assert "1 of 2 shards are there; not yet those of --job=0/2\n" in output
  code, output, _ = runs.run_here("cache", *runs.tiny_flags(tmp_path), "--job=0/2")
  assert code == 0
  assert re.search(r"train +11 documents +[\d,]+ tokens +1 shard\n", output)
  assert re.search(r"validation +1 documents +[\d,]+ tokens +1 shard\n", output)


def test_training_finishes_a_cache_that_jobs_have_begun(tmp_path):
  runs.run_here("cache", *runs.tiny_flags(tmp_path), "--job=1/2")
  (record,) = tmp_path.glob("data/*/validation*.json")
  before = record.stat().st_mtime_ns
  config = dataset.DatasetConfig(
    mixture_or_task_name="text_span_corruption",
    task_feature_lengths={"inputs": 16, "targets": 8},
    batch_size=1,
    text_files=str(runs.TEXT),
    cache_dir=str(tmp_path / "data"),
  )
  (task,) = config.components()
  assert dataset.prepare_cache(config, task) == record.parent
  assert (record.parent / "info.json").exists()
  assert record.stat().st_mtime_ns == before


@pytest.mark.parametrize(
  ("missing", "before", "said"),
  [
    ((1, 3), 0, "2 of 4 shards are there; not yet those of --job=1/2"),
    ((1, 3), 1, "2 of 4 shards are there; not yet those of --job=0/2"),
    ((0, 1), 0, "2 of 4 shards are there; not yet those of --job=0/2, --job=1/2"),
  ],
)
def test_the_jobs_of_a_tasks_shards_follow_from_those_before_it(missing, before, said):
  assert cache._progress(Unfinished(missing, 4), before, jobs=2).strip() == said


def test_of_many_missing_jobs_the_first_are_named():
  said = cache._progress(Unfinished(tuple(range(100)), 200), 0, jobs=100)
  assert said.endswith("--job=6/100, --job=7/100 and 92 more")


def test_lines_and_skipped_documents_are_said(tmp_path):
  (tmp_path / "a.jsonl").write_text('{"text": "One."}\n\nbad\n{"text": "Two."}\n{"text": 1}\n')
  flags = runs.tiny_flags(tmp_path, TEXT_FILES=str(tmp_path / "a.jsonl"))
  code, _, errors = runs.run_here("cache", *flags)
  assert code == 3
  assert f"{tmp_path / 'a.jsonl'}, line 3 (byte 18)" in errors
  assert "DatasetConfig.skip_budget = N" in errors
  assert not (tmp_path / "data").exists()
  code, output, errors = runs.run_here("cache", *flags, "--gin.DatasetConfig.skip_budget=2")
  assert code == 0, errors
  assert "3 lines read, 2 lines skipped\n  2 faulty documents skipped\n" in output
  assert "line 3 (byte 18)" in errors and "line 5" in errors
  assert "2 of 5 lines skipped, 2 document(s)" in errors
  code, _, errors = runs.run_here("cache", *flags)  # with the budget of 0 again
  assert code == 3 and "DatasetConfig.skip_budget = 2" in errors
