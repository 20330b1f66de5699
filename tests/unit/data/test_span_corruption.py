# SPDX-License-Identifier: Apache-2.0
"""Span corruption against T5's published lengths, a per-token oracle, and its distribution."""

from __future__ import annotations

import collections

import numpy as np
import pytest

from switch_t5 import errors
from switch_t5.data import span_corruption

TOP, EOS = 8099, 1


def _corrupt(tokens, seed=0, rows=None):
  rows = range(len(tokens)) if rows is None else rows
  return span_corruption.corrupt(tokens, seed, rows, top_id=TOP, eos_id=EOS)


def _masks(batch, length, seed=0):
  words = span_corruption.row_words(seed, range(batch), length - 2)
  return span_corruption.noise_masks(words, length)


@pytest.mark.parametrize(
  "inputs, window, targets",
  [(512, 568, 114), (128, 141, 29), (256, 284, 58), (1024, 1137, 229), (2048, 2274, 456)],
)
def test_lengths_are_those_published_for_t5(inputs, window, targets):
  assert span_corruption.window_for_inputs(inputs) == window
  counts = span_corruption.span_counts(window)
  assert (counts.inputs_length, counts.targets_length) == (inputs, targets)


def test_the_window_is_the_longest_that_fits_and_fills_the_inputs():
  for inputs in range(3, 1100):
    window = span_corruption.window_for_inputs(inputs)
    assert span_corruption.span_counts(window).inputs_length == inputs
    assert span_corruption.span_counts(window + 1).inputs_length > inputs


def test_corruption_equals_a_token_by_token_oracle():
  length = 141
  tokens = np.random.default_rng(0).integers(3, 8000, (7, length)).astype(np.int32)
  inputs, targets = _corrupt(tokens)
  for row, mask in enumerate(_masks(7, length)):
    expected_inputs, expected_targets = [], []
    noise_spans = kept_spans = 0
    for i, token in enumerate(tokens[row]):
      begins = i == 0 or mask[i] != mask[i - 1]
      if begins and mask[i]:
        expected_inputs.append(TOP - noise_spans)
        noise_spans += 1
      elif begins:
        expected_targets.append(TOP - kept_spans)
        kept_spans += 1
      (expected_targets if mask[i] else expected_inputs).append(token)
    assert inputs[row].tolist() == [*expected_inputs, EOS]
    assert targets[row].tolist() == [*expected_targets, EOS]


def test_sentinels_descend_from_the_top_and_none_closes_the_targets():
  tokens = np.full((3, 568), 5, np.int32)
  inputs, targets = _corrupt(tokens)
  for row in range(3):
    descending = list(range(TOP, TOP - 28, -1))
    assert inputs[row][inputs[row] > 5].tolist() == descending
    assert targets[row][targets[row] > 5].tolist() == descending
  assert (targets[:, 0] == TOP).all()  # the row begins with a kept span
  assert (targets[:, -2] == 5).all()  # and ends with noise
  assert (inputs[:, -1] == EOS).all() and (targets[:, -1] == EOS).all()


def test_noise_is_15_percent_in_spans_of_3():
  masks = _masks(500, 568)
  assert (masks.sum(1) == 85).all()
  starts = masks[:, 1:] & ~masks[:, :-1]
  assert (starts.sum(1) == 28).all()
  assert masks.sum() / starts.sum() == pytest.approx(3.0, abs=0.05)
  # Every place but those at the two ends is noise about equally often.
  frequency = masks.mean(0)[30:-30].reshape(4, -1).mean(1)
  np.testing.assert_allclose(frequency, 0.15, atol=0.015)


def test_every_split_into_spans_is_equally_likely():
  # 40 tokens: 6 of noise in 2 spans (5 ways), 34 kept in 2 spans (33 ways).
  per_split, splits = 60, 5 * 33
  masks = _masks(per_split * splits, 40)
  counts = collections.Counter(row.tobytes() for row in masks)
  assert len(counts) == splits
  chi_square = sum((n - per_split) ** 2 / per_split for n in counts.values())
  # The sum has mean 164 and standard deviation sqrt(2 * 164) = 18 if the splits are uniform.
  assert abs(chi_square - 164) < 4 * 18


def test_neighbouring_rows_share_no_random_word():
  words = span_corruption.row_words(7, range(200), 566)
  assert len(np.unique(words)) == words.size


def test_a_row_draws_from_its_own_philox_stream_with_the_row_in_the_high_word():
  rows = [0, 3, 2**40, 2**63]
  for row, words in zip(rows, span_corruption.row_words(7, rows, 9), strict=True):
    np.testing.assert_array_equal(
      words, np.random.Philox(key=7, counter=[0, 0, 0, row]).random_raw(9)
    )


def test_rows_do_not_depend_on_their_batch():
  tokens = np.random.default_rng(1).integers(3, 8000, (6, 141)).astype(np.int32)
  rows = [5, 2**40, 0, 17, 4, 2**63]
  inputs, targets = _corrupt(tokens, 3, rows)
  for i in range(6):
    alone = _corrupt(tokens[i : i + 1], 3, rows[i : i + 1])
    np.testing.assert_array_equal(alone[0][0], inputs[i])
    np.testing.assert_array_equal(alone[1][0], targets[i])


def test_rows_and_seeds_differ():
  tokens = np.zeros((2, 141), np.int32)
  inputs, _ = _corrupt(tokens, 0)
  assert (inputs[0] != inputs[1]).any()
  assert (inputs != _corrupt(tokens, 1)[0]).any()


def test_the_noise_of_a_row_never_changes_between_versions():
  noise = np.flatnonzero(_masks(3, 40, seed=11)[2])
  assert noise.tolist() == [23, 24, 25, 26, 27, 39]


@pytest.mark.parametrize("targets", [3, 5, 29, 60, 113])
def test_every_suggestion_is_the_longest_that_fits(targets):
  with pytest.raises(errors.ConfigError) as raised:
    span_corruption.check_lengths(512, targets, 100)
  fitting = int(raised.value.remedy.split("inputs=")[1].split()[0])
  span_corruption.check_lengths(fitting, targets, 100)
  with pytest.raises(errors.ConfigError):
    span_corruption.check_lengths(fitting + 1, targets, 100)


@pytest.mark.parametrize("length", range(2, 12))
def test_the_shortest_rows_have_a_kept_and_a_noise_token(length):
  inputs, targets = _corrupt(np.full((1, length), 5, np.int32))
  counts = span_corruption.span_counts(length)
  assert inputs.shape == (1, counts.inputs_length)
  assert targets.shape == (1, counts.targets_length)
  assert counts.kept >= counts.spans >= 1 and counts.noise >= counts.spans


def test_targets_that_would_be_cut_off_are_refused_with_lengths_that_fit():
  with pytest.raises(errors.ConfigError, match="targets=114") as raised:
    span_corruption.check_lengths(512, 100, 100)
  fitting = int(raised.value.remedy.split("inputs=")[1].split()[0])
  assert span_corruption.check_lengths(fitting, 100, 100)


def test_more_spans_than_sentinels_are_refused_with_inputs_that_fit():
  with pytest.raises(errors.ConfigError, match="114 extra_ids") as raised:
    span_corruption.check_lengths(2048, 456, 100)
  fitting = int(raised.value.remedy.split("at most ")[1].rstrip("."))
  assert span_corruption.check_lengths(fitting, 456, 100)
  assert span_corruption.check_lengths(2048, 456, 114) == 2274


def test_inputs_without_room_are_refused():
  with pytest.raises(errors.ConfigError, match="too short"):
    span_corruption.check_lengths(2, 114, 100)
