# SPDX-License-Identifier: Apache-2.0
"""C4 and mC4 in TFDS's form: their tasks, their caches, and what is said when they are not there."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys

import c4_form
import numpy as np
import pytest

from switch_t5 import errors
from switch_t5.data import cache, documents, tasks, tfds_source, token_stream

TASKS = ["c4_v220_span_corruption", "c4_v310_span_corruption", "mc4.de"]

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow's own


def _task(name, data_dir):
  return tasks.get_task(name, tfds_data_dir=str(data_dir))


def _stored(name):
  """Returns TFDS's names of train and validation, which the fixture's texts contain."""
  return ("de", "de-validation") if name == "mc4.de" else ("train", "validation")


@pytest.mark.parametrize("name", TASKS)
def test_a_source_yields_the_documents_of_its_splits(tfds_data_dir, name):
  source = _task(name, tfds_data_dir).source
  texts = source.documents()
  assert list(texts) == ["train", "validation"]
  for split, stored, count in zip(texts, _stored(name), (60, 20), strict=True):
    expected = c4_form.documents(stored, count)
    assert len(texts[split]) == count
    assert sorted(texts[split]) == sorted(expected)
    assert list(texts[split]) == list(texts[split]) != expected  # TFDS shuffled them
  data_set = "c4/multilingual:3.0.1" if name == "mc4.de" else source.name
  assert source.provenance() == {"tfds": data_set, "train": "60", "validation": "20"}


def test_a_range_of_documents_is_read_across_files(tfds_data_dir):
  texts = _task(TASKS[0], tfds_data_dir).source.documents()["train"]
  whole = list(texts)
  for start, stop in [(0, 60), (0, 1), (19, 41), (35, 90), (59, 60), (30, 30)]:
    part = texts[start:stop]
    assert list(part) == whole[start:stop] and len(part) == len(whole[start:stop])
  assert list(texts[10:50][5:12]) == whole[15:22]


@pytest.mark.parametrize("shard_documents", [1000, 25])
def test_a_cache_holds_the_documents_in_their_order(tfds_data_dir, tmp_path, shard_documents):
  task = _task(TASKS[0], tfds_data_dir)
  info = cache.write_cache(task, tmp_path / "cache", shard_documents=shard_documents)
  assert info.splits["train"].documents == 60
  for split, texts in task.source.documents().items():
    stream = token_stream.TokenStream(tmp_path / "cache", split)
    ids = task.vocabulary().encode_batch(list(texts))
    np.testing.assert_array_equal(stream.read(0, stream.tokens), np.concatenate(ids))


def test_bad_utf8_is_named_by_split_and_document_and_may_be_skipped(tmp_path):
  c4_form.prepare(tmp_path, "en", "2.2.0", {"train": 60, "validation": 20}, faulty={7, 40})
  source = _task(TASKS[0], tmp_path).source
  with pytest.raises(errors.DataError, match="not UTF-8") as raised:
    list(source.documents()["train"])
  assert raised.value.value.startswith("c4/en/2.2.0, split train, document ")
  assert raised.value.value.endswith(r"(byte 3 of it): b'\xe9'")
  budget = documents.SkipBudget(2)
  texts = c4_form.documents("train", 60)
  kept = [text for number, text in enumerate(texts) if number not in (7, 40)]
  assert sorted(source.documents(budget)["train"]) == sorted(kept)
  assert budget.skipped == 2
  task = dataclasses.replace(_task(TASKS[0], tmp_path), skip_budget=3)
  info = cache.write_cache(task, tmp_path / "cache", shard_documents=25)
  assert (info.splits["train"].documents, info.skipped) == (58, 3)  # one in validation


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_file_of_a_data_set_is_named_and_not_skipped(tfds_data_dir, tmp_path, damage):
  folder = shutil.copytree(tfds_data_dir, tmp_path / "tfds")
  (path,) = folder.glob("c4/en/2.2.0/*train*-00001-of-00003")
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content if damage == "flipped" else content[: len(content) // 2])
  if damage == "gone":
    path.unlink()
  texts = _task(TASKS[0], folder).source.documents(documents.SkipBudget(100))["train"]
  with pytest.raises(
    errors.DataError, match=r"c4/en/2\.2\.0, split train, documents 0 to 59"
  ) as raised:
    list(texts)
  assert str(path) in raised.value.value
  assert "again" in raised.value.remedy
  assert "function_node" not in raised.value.rule


def test_the_languages_are_those_of_tfds():
  from tensorflow_datasets.text import c4

  assert list(tfds_source.MC4_LANGUAGES) == c4.MC4_LANGUAGES


@pytest.mark.parametrize(
  ("name", "data_set"), [(TASKS[0], "c4/en:2.2.0"), ("mc4.sw", "c4/multilingual:3.0.1")]
)
def test_a_data_set_that_is_not_there_is_named_with_its_folder(tmp_path, name, data_set):
  task = _task(name, tmp_path / "tfds")
  with pytest.raises(errors.DataError, match=data_set) as raised:
    cache.cache_directory(tmp_path / "caches", task)
  assert str(raised.value.value) == str(tmp_path / "tfds" / data_set.replace(":", "/"))
  assert "TFDS_DATA_DIR" in raised.value.remedy and f"tfds build {data_set}" in raised.value.remedy
  assert list(tmp_path.iterdir()) == []


def test_a_language_that_was_not_prepared_is_named(tfds_data_dir):
  with pytest.raises(errors.DataError, match="no such split") as raised:
    _task("mc4.sw", tfds_data_dir).fingerprint()
  assert raised.value.value == "sw"


def test_a_misspelt_language_is_corrected():
  with pytest.raises(errors.ConfigError, match=r"Did you mean mc4\."):
    tasks.get_task("mc4.bg_latin")
  with pytest.raises(errors.ConfigError, match="Did you mean c4_v220_span_corruption"):
    tasks.get_task("c4_v22_span_corruption")


def test_what_a_data_set_holds_is_known_without_tensorflow(tfds_data_dir):
  program = (
    "import sys; from switch_t5.data import tasks;"
    f"print(tasks.get_task({TASKS[0]!r}, tfds_data_dir={str(tfds_data_dir)!r}).fingerprint());"
    "print('tensorflow' in sys.modules)"
  )
  command = [sys.executable, "-W", "ignore", "-c", program]
  done = subprocess.run(command, capture_output=True, text=True, check=True)
  assert done.stdout.split() == [_task(TASKS[0], tfds_data_dir).fingerprint(), "False"]
