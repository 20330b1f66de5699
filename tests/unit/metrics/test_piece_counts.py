# SPDX-License-Identifier: Apache-2.0
"""What is counted of the pieces that experts take."""

from __future__ import annotations

import numpy as np
import pytest

from switch_t5.metrics.piece_counts import PieceCounts

PIECES = ["<pad>", "\N{LOWER ONE EIGHTH BLOCK}a", "b", "c"]


def pairs(*of_routers):
  """An array [R, n, 2] of (token id, expert)."""
  return np.asarray(of_routers, np.int32).reshape(len(of_routers), -1, 2)


@pytest.fixture
def counted():
  """Two routers of the encoder, one of the decoder, three experts, two batches."""
  counts = PieceCounts(["e0", "e1", "d0"], 3, PIECES.__getitem__)
  many = [(1, 0)] * 8 + [(2, 0)] * 2 + [(3, 1)] * 10
  counts.add([pairs(many, [(1, 2)] * 20), pairs([(2, 1), (-1, 0), (-1, 3)])])
  counts.add([pairs([(1, 1), (1, 0), (3, 1), (-1, 0)], [(-1, 2)] * 4), pairs([(2, 1)] * 3)])
  return counts.as_json(7)


def test_each_expert_lists_its_commonest_pieces_with_their_shares(counted):
  assert counted["step"] == 7 and list(counted["routers"]) == ["e0", "e1", "d0"]
  first, second, third = counted["routers"]["e0"]
  assert first["tokens"] == 11 and second["tokens"] == 12
  assert first["top"] == [(PIECES[1], round(9 / 11, 4)), ("b", round(2 / 11, 4))]
  assert second["top"] == [("c", round(11 / 12, 4)), (PIECES[1], round(1 / 12, 4))]
  assert third == {"tokens": 0, "top": [], "own": []}
  assert [expert["tokens"] for expert in counted["routers"]["e1"]] == [0, 0, 20]


def test_its_own_are_pieces_seen_often_enough_that_came_mostly_to_it(counted):
  first, second, _ = counted["routers"]["e0"]
  assert first["own"] == [(PIECES[1], 0.9)]  # b was seen twice
  assert second["own"] == [("c", 1.0)]


def test_padding_and_choices_of_no_expert_are_not_counted(counted):
  assert [expert["tokens"] for expert in counted["routers"]["d0"]] == [0, 4, 0]


def test_stacks_of_more_or_fewer_routers_than_named_are_refused():
  counts = PieceCounts(["e0"], 2, PIECES.__getitem__)
  with pytest.raises(ValueError, match=r"shorter|longer"):
    counts.add([pairs([(1, 1)], [(1, 0)])])
  with pytest.raises(ValueError, match=r"shorter|longer"):
    counts.add([None, None])
