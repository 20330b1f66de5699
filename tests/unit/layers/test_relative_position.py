# SPDX-License-Identifier: Apache-2.0
"""Relative position buckets against a scalar form of T5's formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
from flax import nnx

from switch_t5.layers.relative_position import RelativePositionBias, relative_position_bucket


def scalar_bucket(distance: int, *, bidirectional: bool) -> int:
  """The bucket of key position minus query position: 32 buckets, logarithmic up to 128."""
  buckets = 32
  offset = 0
  if bidirectional:
    buckets = 16
    offset = 16 if distance > 0 else 0
    steps = abs(distance)
  else:
    steps = max(-distance, 0)
  exact = buckets // 2
  if steps < exact:
    return offset + steps
  # In single precision as T5 computes it: at 16, 32, 64 the logarithm's ratio is a whole number.
  ratio = np.float32(math.log(steps / exact)) / np.float32(math.log(128 / exact))
  return offset + min(exact + int(ratio * np.float32(buckets - exact)), buckets - 1)


@pytest.mark.smoke
@pytest.mark.parametrize("bidirectional", [True, False])
def test_buckets_are_t5s_for_all_distances(bidirectional):
  distances = np.arange(-300, 301, dtype=np.int32)
  got = relative_position_bucket(distances, bidirectional=bidirectional)
  want = [scalar_bucket(int(d), bidirectional=bidirectional) for d in distances]
  np.testing.assert_array_equal(got, want)
  assert got.min() == 0 and got.max() == 31


def test_some_buckets_by_hand():
  def bucket(distance, bidirectional):
    return int(relative_position_bucket(np.int32([distance]), bidirectional=bidirectional)[0])

  assert [bucket(d, True) for d in (0, -1, -7, -8, -128, -1000)] == [0, 1, 7, 8, 15, 15]
  assert [bucket(d, True) for d in (1, 7, 8, 128, 1000)] == [17, 23, 24, 31, 31]
  assert [bucket(d, False) for d in (0, 5, -1, -15, -16, -128)] == [0, 0, 1, 15, 16, 31]


@pytest.mark.parametrize("bidirectional", [True, False])
def test_the_bias_of_query_and_key_is_that_of_their_distance(bidirectional):
  layer = RelativePositionBias(2, bidirectional=bidirectional, rngs=nnx.Rngs(params=0))
  bias = layer(20)
  assert bias.shape == (1, 2, 20, 20)
  table = np.asarray(layer.rel_embedding[...])
  for query, key in [(0, 0), (3, 17), (17, 3), (19, 0), (0, 19)]:
    bucket = scalar_bucket(key - query, bidirectional=bidirectional)
    np.testing.assert_array_equal(bias[0, :, query, key], table[:, bucket])
