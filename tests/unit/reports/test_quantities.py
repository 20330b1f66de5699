# SPDX-License-Identifier: Apache-2.0
"""Numbers as people read them."""

from __future__ import annotations

import pytest

from switch_t5.reports import quantities


@pytest.mark.parametrize(
  ("number", "text"),
  [
    (0, "0 B"),
    (999, "999 B"),
    (62_914_560, "62.9 MB"),
    (99_960_000, "100 MB"),
    (6.3e12, "6.30 TB"),
  ],
)
def test_a_size_has_three_digits(number, text):
  assert quantities.size(number) == text


@pytest.mark.parametrize(
  ("number", "text"),
  [(3.14, "3.14"), (44_521, "44,521"), (394.71e9, "394.7 billion"), (1.5713e12, "1.571 trillion")],
)
def test_a_count_is_whole_up_to_a_million(number, text):
  assert quantities.count(number) == text


@pytest.mark.parametrize(
  ("number", "text"),
  [(0, "0 µs"), (2e-5, "20.0 µs"), (0.1924, "192 ms"), (1.5, "1.50 s"), (319, "5.3 min")],
)
def test_a_time_has_the_unit_that_fits(number, text):
  assert quantities.seconds(number) == text


def test_a_small_part_is_not_nothing():
  assert quantities.percent(0.0) == "0.0 %"
  assert quantities.percent(1e-5) == "below 0.1 %"
  assert quantities.percent(0.0506) == "5.1 %"


def test_what_is_compared_is_in_gigabytes_unless_it_is_smaller():
  assert quantities.gigabytes(85.4e6) == "85.4 MB"
  assert quantities.gigabytes(95.7e9) == "95.7 GB"
  assert quantities.gigabytes(1_234.5e9) == "1,234.5 GB"
