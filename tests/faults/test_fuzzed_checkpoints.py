# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of every format, changed at random: a small part of `benchmarks.fuzz_checkpoints`."""

from __future__ import annotations

import pytest

from benchmarks.fuzz_checkpoints import describe_faults, figures, fuzz
from switch_t5.interop.detect import FORMATS

CHANGES = 40


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
  return fuzz(FORMATS, CHANGES, 0, tmp_path_factory.mktemp("fuzz"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_wrong_is_refused_and_nothing_else_happens(kind, verdicts):
  row = figures(verdicts)[kind]
  assert not describe_faults({kind: verdicts[kind]})
  assert row["changes"] == CHANGES
  assert row["refused"] > CHANGES / 2
