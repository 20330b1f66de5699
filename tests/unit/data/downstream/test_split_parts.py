# SPDX-License-Identifier: Apache-2.0
"""Splits of a task that are made of a data set's: what is read of its own files, and of TFDS's."""

from __future__ import annotations

import pytest

from switch_t5 import errors
from switch_t5.data import tfds_source
from switch_t5.data.downstream import datasets

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow's own

DATASET = datasets.Dataset(
  "numbers:1.0.0",
  "numbers",
  {"train": "train.jsonl", "test": "test.jsonl"},
  {"number": "int32", "words": "string[]"},
  datasets.jsonl(lambda row: [dict(row)]),
)
SPLITS = {"train": "train[:2]", "validation": "train[2:]", "test": "train+test"}


def _write(folder, **files):
  (folder / "numbers").mkdir(exist_ok=True)
  for split, numbers in files.items():
    lines = [f'{{"number": {number}, "words": ["n{number}"]}}\n' for number in numbers]
    (folder / "numbers" / f"{split}.jsonl").write_text("".join(lines))


def _numbers(source, split):
  dataset = source.get_dataset(split, shuffle=False)
  return [int(example["number"]) for example in dataset.as_numpy_iterator()]


def test_own_files_are_sliced_and_joined(tmp_path):
  _write(tmp_path, train=range(5), test=[7])
  source = datasets.source(DATASET, tmp_path, None, SPLITS)
  assert _numbers(source, "train") == [0, 1]
  assert _numbers(source, "validation") == [2, 3, 4]
  assert _numbers(source, "test") == [0, 1, 2, 3, 4, 7]
  assert source.list_shards("validation") == [str(tmp_path / "numbers" / "train.jsonl")]
  assert source.sha256("validation") == source.sha256("train") != source.sha256("test")


def test_a_split_is_left_out_unless_all_that_makes_it_up_is_there(tmp_path):
  _write(tmp_path, train=range(5))
  assert datasets.source(DATASET, tmp_path, None, SPLITS).splits == ("train", "validation")


def test_a_slice_behind_the_end_is_an_empty_split(tmp_path):
  _write(tmp_path, train=[0])
  source = datasets.source(DATASET, tmp_path, None, SPLITS)
  with pytest.raises(
    errors.DataError, match=r"train\[2:\] split of numbers is empty(.|\n)*shorter"
  ):
    source.get_dataset("validation")


def test_prepared_data_are_sliced_and_joined_by_tfds(tmp_path):
  tfds_source.load_tensorflow()
  import numpy as np
  import tensorflow_datasets as tfds

  tfds.dataset_builders.store_as_tfds_dataset(
    name="numbers",
    version="1.0.0",
    features=tfds.features.FeaturesDict({"number": np.int32}),
    split_datasets={
      "train": [(n, {"number": n}) for n in range(5)],
      "test": [(0, {"number": 7})],
    },
    data_dir=tmp_path,
  )
  source = datasets.source(DATASET, None, str(tmp_path), SPLITS)
  parts = [_numbers(source, split) for split in SPLITS]
  assert [len(part) for part in parts] == [2, 3, 6]
  assert sorted(parts[0] + parts[1]) == [0, 1, 2, 3, 4] and sorted(parts[2]) == [0, 1, 2, 3, 4, 7]
  # What is not there is left out.
  assert list(datasets.source(DATASET, None, str(tmp_path), {"a": "train", "b": "dev"}).splits) == [
    "a"
  ]


@pytest.mark.parametrize("words", ['"n1"', "null", "[1]", '{"n": 1}'])
def test_a_list_must_be_one_of_texts(tmp_path, words):
  _write(tmp_path, train=[])
  (tmp_path / "numbers" / "train.jsonl").write_text(f'{{"number": 1, "words": {words}}}')
  with pytest.raises(errors.DataError, match=r"line 1(.|\n)*words is"):
    DATASET.examples(tmp_path / "numbers", "train")
