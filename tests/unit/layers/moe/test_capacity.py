# SPDX-License-Identifier: Apache-2.0
"""Capacity and groups: the arithmetic, what is refused, and the expected share of dropped tokens."""

from __future__ import annotations

import re

import numpy as np
import pytest

from switch_t5.errors import MeshError
from switch_t5.layers.moe.capacity import check_groups, expected_fraction_dropped, expert_capacity


@pytest.mark.smoke
@pytest.mark.parametrize(
  ("factor", "tokens", "experts", "minimum", "capacity"),
  [
    (1.0, 1024, 128, 4, 8),
    (1.25, 1024, 128, 4, 10),
    (2.0, 1024, 128, 4, 16),
    (1.25, 4096, 128, 4, 40),
    (1.25, 100, 8, 4, 16),  # 15.625, up
    (1.0, 1001, 8, 4, 126),  # 125.125, up
    (1.1, 10, 11, 1, 1),  # 1.0000000000000002 in floating point is still 1
    (1.1, 1000, 11, 1, 100),
    (1.25, 64, 128, 4, 4),  # the minimum
    (1.25, 64, 128, 1, 1),
    (2.0, 16, 1, 4, 16),  # never more than the group
    (1.0, 3, 8, 4, 3),  # not even for the minimum
    (0.5, 64, 8, 2, 4),
  ],
)
def test_capacity_is_the_factor_times_the_even_share_rounded_up(
  factor, tokens, experts, minimum, capacity
):
  assert expert_capacity(factor, tokens, experts, minimum) == capacity


@pytest.mark.parametrize("num_microbatches", [1, 2, 3])
@pytest.mark.parametrize("batch_shards", [1, 2, 8])
@pytest.mark.parametrize("sequences_per_group", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_size", [1, 6, 8, 16, 20, 48, 96])
def test_groups_are_whole_or_refused_with_suggestions_that_fit(
  batch_size, sequences_per_group, batch_shards, num_microbatches
):
  def check(batch_size, sequences_per_group):
    check_groups(
      "decoder",
      batch_size=batch_size,
      num_microbatches=num_microbatches,
      sequences_per_group=sequences_per_group,
      batch_shards=batch_shards,
    )

  if batch_size % (num_microbatches * batch_shards * sequences_per_group) == 0:
    check(batch_size, sequences_per_group)
    return
  with pytest.raises(MeshError) as error:
    check(batch_size, sequences_per_group)
  remedy = error.value.remedy
  for value in (batch_size, num_microbatches, sequences_per_group, batch_shards):
    assert str(value) in error.value.value
  sizes = list(map(int, re.search(r"BATCH_SIZE of (\d+(?: or \d+)*)", remedy)[1].split(" or ")))
  assert sizes and min(sizes) > 0
  for size in sizes:
    check(size, sequences_per_group)
  fits = re.search(r"decoder_sequences_per_group of ([\d, ]+) with BATCH_SIZE (\d+)$", remedy)
  per_device, rest = divmod(batch_size, num_microbatches * batch_shards)
  assert (fits is not None) == (rest == 0)
  if fits:
    assert int(fits[2]) == batch_size
    suggested = list(map(int, fits[1].split(",")))
    assert suggested == [n for n in range(1, per_device + 1) if per_device % n == 0]
    for n in suggested:
      check(batch_size, n)


@pytest.mark.parametrize(
  ("tokens", "factor", "percent"),
  [
    (1024, 1.0, 14),
    (1024, 1.25, 5.0),
    (1024, 2.0, 0.02),
    (4096, 1.0, 7.0),
    (4096, 1.25, 0.62),
    (4096, 2.0, 0.0),
    (8192, 1.0, 5.0),
    (8192, 1.25, 0.10),
  ],
)
def test_expected_drops_of_128_experts_are_the_closed_form_figures(tokens, factor, percent):
  got = 100 * expected_fraction_dropped(factor, tokens, 128)
  assert got == pytest.approx(percent, rel=0.02, abs=0.005)


@pytest.mark.parametrize("factor", [1.0, 1.25])
@pytest.mark.parametrize(("tokens", "experts"), [(1024, 8), (512, 16), (4096, 128)])
def test_expected_drops_are_those_of_a_uniform_router(factor, tokens, experts):
  rng = np.random.default_rng(0)
  loads = rng.multinomial(tokens, [1 / experts] * experts, size=2000)
  dropped = np.maximum(loads - factor * tokens / experts, 0).sum(axis=1).mean() / tokens
  # A binomial is skewed: its upper tail holds a little more than the normal approximation says.
  expected = expected_fraction_dropped(factor, tokens, experts)
  assert expected == pytest.approx(dropped, rel=0.02, abs=0.0012)


def test_one_expert_drops_what_exceeds_its_capacity():
  assert expected_fraction_dropped(0.75, 100, 1) == 0.25
  assert expected_fraction_dropped(1.25, 100, 1) == 0.0
