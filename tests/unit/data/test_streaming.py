# SPDX-License-Identifier: Apache-2.0
"""The streaming reader: its features, exact resumption, shards, and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest

from switch_t5 import batch as batch_lib
from switch_t5 import errors

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow's own

LENGTHS = {"inputs": 32, "targets": 8}
C4 = "c4_v220_span_corruption"
TASK = "c4_with_a_small_buffer"


@pytest.fixture(scope="module")
def streaming(tfds_data_dir):
  import seqio

  from switch_t5.data import seqio_tasks, streaming

  seqio_tasks.register_tasks(tfds_data_dir=str(tfds_data_dir))
  c4 = seqio.TaskRegistry.get(C4)
  seqio.TaskRegistry.add(
    TASK,
    source=c4.source,
    preprocessors=c4.preprocessors,
    output_features=c4.output_features,
    shuffle_buffer_size=50,
  )
  feature = seqio.Feature(vocabulary=c4.output_features["inputs"].vocabulary)
  seqio.TaskRegistry.add(
    "short",
    source=seqio.FunctionDataSource(_short_examples, splits=["train"]),
    preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
    output_features={"inputs": feature, "targets": feature},
  )
  yield streaming
  seqio.TaskRegistry.remove(TASK)
  seqio.TaskRegistry.remove("short")


@pytest.fixture(scope="module")
def reader(streaming):
  """Somewhere in the train split."""
  return _reader(streaming)


def _short_examples(split, shuffle_files, seed=None):
  import tensorflow as tf

  texts = [f"Question {number}?" for number in range(30)]
  return tf.data.Dataset.from_tensor_slices({"inputs": texts, "targets": texts})


def _reader(streaming, split="train", name=TASK, **arguments):
  arguments = {"feature_lengths": LENGTHS, "batch_size": 4, "seed": 3} | arguments
  return streaming.StreamingReader(name, split, **arguments)


def _bytes(batches):
  return [{name: value.tobytes() for name, value in batch.items()} for batch in batches]


def _take(reader, count):
  return [next(reader) for _ in range(count)]


@pytest.mark.parametrize("pack", [True, False])
def test_batches_have_the_features_of_the_batch(streaming, pack):
  for batch in _take(_reader(streaming, pack=pack), 3):
    spec = batch_lib.batch_spec((4,), 32, 8)
    assert {name: (value.shape, value.dtype) for name, value in batch.items()} == {
      name: (feature.shape, feature.dtype) for name, feature in spec.items()
    }
    weights = batch[batch_lib.DECODER_LOSS_WEIGHTS]
    np.testing.assert_array_equal(weights, batch[batch_lib.DECODER_SEGMENT_IDS] > 0)
    np.testing.assert_array_equal(weights, batch[batch_lib.DECODER_TARGET_TOKENS] != 0)
    np.testing.assert_array_equal(
      batch[batch_lib.ENCODER_INPUT_TOKENS] != 0, batch[batch_lib.ENCODER_SEGMENT_IDS] > 0
    )
    assert (batch[batch_lib.DECODER_INPUT_TOKENS][:, 0] == 0).all()


def test_short_examples_share_a_row_when_packed(streaming):
  lengths = {"inputs": 128, "targets": 32}
  long = _take(_reader(streaming, "validation", feature_lengths=lengths, shuffle=False), 1)
  assert long[0][batch_lib.ENCODER_SEGMENT_IDS].max() == 1  # span corruption fills its rows
  packed, alone = (
    list(_reader(streaming, name="short", feature_lengths=lengths, num_epochs=1, pack=pack))
    for pack in (True, False)
  )
  assert packed[0][batch_lib.ENCODER_SEGMENT_IDS].max() > 1
  assert max(batch[batch_lib.ENCODER_SEGMENT_IDS].max() for batch in alone) == 1


def test_a_restored_reader_goes_on_byte_for_byte(streaming, reader):
  other = _reader(streaming)
  for taken in (0, 1, 7, 40):  # 40: some epochs later
    _take(reader, taken)
    state = json.loads(json.dumps(reader.state()))
    expected = _bytes(_take(reader, 20))
    other.restore(state)
    assert _bytes(_take(other, 20)) == expected


def test_another_number_of_processes_is_refused(reader):
  state = reader.state()
  for change in ({"processes": 2}, {"shards": 2}, {"rows": 8}):
    with pytest.raises(errors.DataError, match="another layout") as raised:
      reader.restore(state | change)
    assert "DatasetConfig.reader = 'indexed'" in raised.value.remedy


def test_a_damaged_position_is_refused(reader):
  state = reader.state()
  for files in ({}, {".index": "eA=="}, dict.fromkeys(state["iterators"][0], "")):
    with pytest.raises(errors.DataError, match="cannot be restored"):
      reader.restore(state | {"iterators": [files]})


def test_shards_hold_every_example_once(streaming):
  def examples(**arguments):
    reader = _reader(streaming, name="short", num_epochs=1, shuffle=False, pack=False, **arguments)
    return [row.tobytes() for b in reader for row in b[batch_lib.ENCODER_INPUT_TOKENS] if row.any()]

  shards = [examples(shard_index=index, num_shards=2) for index in range(2)]
  assert sorted(shards[0] + shards[1]) == sorted(examples())
  assert all(shards)


def test_processes_that_share_batches_get_their_rows(streaming):
  whole, part = (
    list(_reader(streaming, "validation", num_epochs=1, shuffle=False, rows=rows))
    for rows in (None, [1, 2])
  )
  assert _bytes(part) == _bytes({k: v[[1, 2]] for k, v in batch.items()} for batch in whole)


def test_the_last_batch_is_filled_up_with_padding(streaming):
  batches = list(_reader(streaming, "validation", num_epochs=1, shuffle=False, batch_size=13))
  rows = np.concatenate([b[batch_lib.DECODER_LOSS_WEIGHTS].sum(axis=1) for b in batches])
  real = int((rows > 0).sum())
  assert 0 < real < len(rows) and (rows[real:] == 0).all()
  assert all(value[-1].sum() == 0 for value in batches[-1].values())


def test_what_seqio_does_not_know_is_refused(streaming):
  with pytest.raises(errors.ConfigError, match="Did you mean c4_v220_span_corruption"):
    _reader(streaming, name="c4_v220_span_coruption")
  with pytest.raises(errors.DataError, match="Did you mean validation"):
    _reader(streaming, "validaton")


def test_data_that_is_not_there_is_an_error_of_ours(streaming, tmp_path):
  from switch_t5.data import seqio_tasks, tasks

  seqio_tasks.register_task(tasks.get_task("mc4.sw", tfds_data_dir=str(tmp_path)))
  with pytest.raises(errors.DataError, match=r"mc4\.sw"):
    _reader(streaming, name="mc4.sw")
