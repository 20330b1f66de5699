# SPDX-License-Identifier: Apache-2.0
"""The indexed reader: rows are a function of (seed, row), whoever reads them and from where."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys

import numpy as np
import pytest
import reading

from switch_t5 import batch, errors
from switch_t5.data import cache, indexed, span_corruption, tasks, token_stream

LENGTHS = {"inputs": 64, "targets": 14}
WINDOW = 70


def _reader(directory, split="train", **arguments):
  arguments = {"feature_lengths": LENGTHS, "batch_size": 4, "seed": 5} | arguments
  return indexed.IndexedReader(directory, split, **arguments)


def _take(reader, n):
  return list(itertools.islice(reader, n))


def test_batches_are_as_the_contract_says(fixture_cache):
  features = next(_reader(fixture_cache, feature_lengths={"inputs": 64, "targets": 20}))
  spec = batch.batch_spec((4,), 64, 20)
  assert {name: (a.shape, a.dtype) for name, a in features.items()} == {
    name: (s.shape, s.dtype) for name, s in spec.items()
  }
  targets = features["decoder_target_tokens"]
  assert (targets[:, 13] == 1).all() and (targets[:, 14:] == 0).all()
  np.testing.assert_array_equal(features["decoder_input_tokens"][:, 0], 0)
  np.testing.assert_array_equal(features["decoder_input_tokens"][:, 1:14], targets[:, :13])
  np.testing.assert_array_equal(features["decoder_input_tokens"][:, 14:], 0)
  np.testing.assert_array_equal(features["decoder_loss_weights"], targets > 0)
  np.testing.assert_array_equal(features["decoder_segment_ids"], targets > 0)
  np.testing.assert_array_equal(features["encoder_segment_ids"], 1)
  assert features["encoder_input_tokens"].min() > 0


def test_without_shuffling_row_i_is_window_i_corrupted_with_row_i(fixture_cache):
  reader = _reader(fixture_cache, shuffle=False, num_epochs=2)
  rows = reading.join(_take(reader, 1000))
  stream = token_stream.TokenStream(fixture_cache, "train")
  n = stream.tokens // WINDOW
  assert reader.num_rows == n
  windows = stream.read(0, n * WINDOW).reshape(n, WINDOW)
  inputs, targets = span_corruption.corrupt(
    np.concatenate([windows, windows]), 5, range(2 * n), top_id=8099, eos_id=1
  )
  np.testing.assert_array_equal(rows["encoder_input_tokens"][: 2 * n], inputs)
  np.testing.assert_array_equal(rows["decoder_target_tokens"][: 2 * n], targets)


def _uncorrupted(inputs, targets) -> tuple[int, ...]:
  """Puts the spans of the targets back where their sentinels stand in the inputs."""
  spans = {}
  for token in targets[targets > 1]:
    if token >= 8000:
      spans[int(token)] = span = []
    else:
      span.append(int(token))
  pieces = (spans[int(t)] if t >= 8000 else [int(t)] for t in inputs[inputs > 1])
  return tuple(itertools.chain.from_iterable(pieces))


def test_every_epoch_holds_every_window_once_in_another_order(fixture_cache):
  reader = _reader(fixture_cache, num_epochs=3)
  n = reader.num_rows
  rows = reading.join(_take(reader, 1000))
  windows = [
    _uncorrupted(i, t)
    for i, t in zip(rows["encoder_input_tokens"], rows["decoder_target_tokens"], strict=True)
  ][: 3 * n]
  stream = token_stream.TokenStream(fixture_cache, "train")
  expected = [tuple(stream.read(i * WINDOW, (i + 1) * WINDOW).tolist()) for i in range(n)]
  epochs = [windows[:n], windows[n : 2 * n], windows[2 * n :]]
  assert all(sorted(epoch) == sorted(expected) for epoch in epochs)
  assert len({tuple(epoch) for epoch in [expected, *epochs]}) == 4
  assert len({row.tobytes() for row in rows["encoder_input_tokens"][: 3 * n]}) == 3 * n


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_together_see_what_one_sees(fixture_cache, processes):
  alone = _take(_reader(fixture_cache, batch_size=8), 5)
  places = np.random.default_rng(0).permutation(8).reshape(processes, -1)
  readers = [_reader(fixture_cache, batch_size=8, rows=p) for p in places]
  for expected in alone:
    for reader, own in zip(readers, places, strict=True):
      reading.assert_equal(next(reader), {name: expected[name][own] for name in batch.FEATURES})


@pytest.mark.parametrize("position", [0, 1, 3, 7])
def test_a_restored_reader_goes_on_exactly(fixture_cache, position):
  reader = _reader(fixture_cache)
  expected = _take(reader, position + 3)[position:]
  first = _reader(fixture_cache)
  _take(first, position)
  assert first.state() == {"rows_consumed": 4 * position}
  second = _reader(fixture_cache)
  next(second)
  second.restore(first.state())
  for features in expected:
    reading.assert_equal(next(second), features)
  reading.assert_equal(next(_reader(fixture_cache, first_row=4 * position)), expected[0])


@pytest.mark.parametrize("row", [1, 7, 29])
def test_a_reader_goes_on_at_any_row(fixture_cache, row):
  expected = reading.join(_take(_reader(fixture_cache, batch_size=1), row + 10))
  reader = _reader(fixture_cache, batch_size=5)
  reader.restore({"rows_consumed": row})
  rows = reading.join(_take(reader, 2))
  reading.assert_equal(rows, {name: a[row:] for name, a in expected.items()})
  assert reader.state() == {"rows_consumed": row + 10}


def test_rows_go_on_once_with_another_batch_size_and_number_of_processes(fixture_cache):
  expected = reading.join(_take(_reader(fixture_cache, batch_size=1), 3 * 4 + 2 * 6))
  first = _reader(fixture_cache)
  before = _take(first, 3)
  readers = [_reader(fixture_cache, batch_size=6, rows=rows) for rows in ([0, 1, 2], [3, 4, 5])]
  for reader in readers:
    reader.restore(first.state())
  after = [next(reader) for _ in range(2) for reader in readers]
  reading.assert_equal(reading.join([*before, *after]), expected)
  assert readers[0].state() == readers[1].state() == {"rows_consumed": 24}


def test_the_last_batch_is_filled_up_with_padding(fixture_cache):
  full = _reader(fixture_cache, "validation", num_epochs=1, batch_size=1)
  n = full.num_rows
  expected = reading.join(_take(full, 1000))
  reader = _reader(fixture_cache, "validation", num_epochs=1, batch_size=n + 3)
  (features,) = _take(reader, 1000)
  assert reader.state() == {"rows_consumed": n}
  reading.assert_equal({name: a[:n] for name, a in features.items()}, expected)
  assert all((a[n:] == 0).all() and len(a) == n + 3 for a in features.values())
  with pytest.raises(StopIteration):
    next(reader)
  reader.restore(reader.state())
  with pytest.raises(StopIteration):
    next(reader)


def test_a_process_with_no_real_row_in_the_last_batch_gets_padding(fixture_cache):
  n = _reader(fixture_cache, "validation").num_rows
  reader = _reader(fixture_cache, "validation", num_epochs=1, batch_size=n + 3, rows=[n, n + 2])
  (features,) = _take(reader, 1000)
  assert all((a == 0).all() and len(a) == 2 for a in features.values())


def test_seeds_give_other_orders_and_other_spans(fixture_cache):
  a, b = (next(_reader(fixture_cache, seed=seed)) for seed in (0, 1))
  assert (a["encoder_input_tokens"] != b["encoder_input_tokens"]).any()


def test_the_order_of_rows_never_changes_between_versions(fixture_cache):
  # A new release of Grain that shuffles otherwise would break every run that is resumed.
  reader = _reader(fixture_cache, seed=5, batch_size=10)
  firsts = next(reader)["encoder_input_tokens"][:, 1].tolist()
  assert firsts == [396, 260, 261, 1226, 2045, 1601, 1392, 374, 260, 395]


def test_lengths_that_do_not_correspond_are_refused(fixture_cache):
  with pytest.raises(errors.ConfigError, match="targets=14"):
    _reader(fixture_cache, feature_lengths={"inputs": 64, "targets": 13})
  with pytest.raises(errors.ConfigError, match="TASK_FEATURE_LENGTHS"):
    _reader(fixture_cache, feature_lengths={"inputs": 64})


@pytest.mark.parametrize(
  "argument",
  [
    {"batch_size": 0},
    {"seed": -1},
    {"rows": [4]},
    {"rows": [-1]},
    {"first_row": -1},
    {"num_epochs": 0},
  ],
)
def test_arguments_out_of_range_are_refused(fixture_cache, argument):
  with pytest.raises(errors.ConfigError):
    _reader(fixture_cache, **argument)


def test_a_split_smaller_than_a_window_is_refused(fixture_cache):
  with pytest.raises(errors.DataError, match="smaller than one row") as raised:
    _reader(fixture_cache, "validation", feature_lengths={"inputs": 512, "targets": 114})
  assert "568" in raised.value.rule


def test_a_tiny_corpus_is_refused_when_it_is_read(tmp_path):
  (tmp_path / "tiny.txt").write_text("Only one line.")
  task = tasks.get_task("text_span_corruption", text_files=str(tmp_path / "tiny.txt"))
  cache.write_cache(task, tmp_path / "cache", shard_documents=500)
  for split in ("train", "validation"):
    with pytest.raises(errors.DataError, match="smaller than one row"):
      _reader(tmp_path / "cache", split)


def test_a_missing_cache_is_refused(tmp_path):
  with pytest.raises(errors.DataError, match="switch_t5 cache"):
    _reader(tmp_path)


def test_a_corrupt_record_is_named_when_it_is_read(fixture_cache, tmp_path):
  directory = shutil.copytree(fixture_cache, tmp_path / "damaged")
  shard = directory / "train-00001-of-00003.array_record"
  content = bytearray(shard.read_bytes())
  content[200] ^= 1
  shard.write_bytes(content)
  with pytest.raises(errors.DataError, match=shard.name):
    _take(_reader(directory, num_epochs=1), 1000)


def test_a_shard_that_vanishes_is_named_when_it_is_read(fixture_cache, tmp_path):
  directory = shutil.copytree(fixture_cache, tmp_path / "damaged")
  stream = token_stream.TokenStream(directory, "train")
  shutil.rmtree(directory)
  with pytest.raises(errors.DataError, match=r"train-00000-of-00003"):
    stream.read(0, 10)


def test_unigram_entropy_equals_a_count_by_hand(fixture_cache):
  counts = {}
  for split in ("train", "validation"):
    rows = reading.join(
      _take(_reader(fixture_cache, split, shuffle=False, num_epochs=1, seed=0), 1000)
    )
    real = rows["decoder_loss_weights"] > 0
    counts[split] = np.bincount(rows["decoder_target_tokens"][real], minlength=8100)
  probabilities = (counts["train"] + 1) / (counts["train"] + 1).sum()
  expected = -(counts["validation"] * np.log(probabilities)).sum() / counts["validation"].sum()
  entropy = indexed.unigram_entropy(fixture_cache, feature_lengths=LENGTHS)
  assert entropy == pytest.approx(expected)
  assert 3 < entropy < np.log(8100)


def test_reading_a_cache_imports_neither_tensorflow_nor_seqio(fixture_cache):
  code = f"""
import sys
from switch_t5.data import cache, indexed, tasks
reader = indexed.IndexedReader(
  {str(fixture_cache)!r}, "train", feature_lengths={LENGTHS}, batch_size=2, seed=0)
next(reader)
print([name for name in ("tensorflow", "seqio", "t5") if name in sys.modules])
"""
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert done.stdout.strip() == "[]"
