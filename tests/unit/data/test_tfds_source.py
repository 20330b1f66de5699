# SPDX-License-Identifier: Apache-2.0
"""C4 and mC4 in TFDS's form: their tasks, their caches, and what is said when they are not there."""

from __future__ import annotations

import subprocess
import sys

import c4_form
import numpy as np
import pytest

from switch_t5 import errors
from switch_t5.data import cache, tasks, tfds_source, token_stream

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
  documents = source.documents()
  assert list(documents) == ["train", "validation"]
  for split, stored, count in zip(documents, _stored(name), (60, 20), strict=True):
    expected = c4_form.documents(stored, count)
    assert len(documents[split]) == count
    assert sorted(documents[split]) == sorted(expected)
    assert list(documents[split]) == list(documents[split]) != expected  # TFDS shuffled them
  data_set = "c4/multilingual:3.0.1" if name == "mc4.de" else source.name
  assert source.provenance() == {"tfds": data_set, "train": "60", "validation": "20"}


def test_a_range_of_documents_is_read_across_files(tfds_data_dir):
  documents = _task(TASKS[0], tfds_data_dir).source.documents()["train"]
  whole = list(documents)
  for start, stop in [(0, 60), (0, 1), (19, 41), (35, 90), (59, 60), (30, 30)]:
    part = documents[start:stop]
    assert list(part) == whole[start:stop] and len(part) == len(whole[start:stop])
  assert list(documents[10:50][5:12]) == whole[15:22]


@pytest.mark.parametrize("shard_documents", [1000, 25])
def test_a_cache_holds_the_documents_in_their_order(tfds_data_dir, tmp_path, shard_documents):
  task = _task(TASKS[0], tfds_data_dir)
  info = cache.write_cache(task, tmp_path / "cache", shard_documents=shard_documents)
  assert info.splits["train"].documents == 60
  for split, documents in task.source.documents().items():
    stream = token_stream.TokenStream(tmp_path / "cache", split)
    ids = task.vocabulary().encode_batch(list(documents))
    np.testing.assert_array_equal(stream.read(0, stream.tokens), np.concatenate(ids))


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
