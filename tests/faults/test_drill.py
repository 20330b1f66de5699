# SPDX-License-Identifier: Apache-2.0
"""The quick drill: what a run promises under kills, signals, damage, full disks and faulty data."""

from __future__ import annotations

import pytest

from tests.faults import drill


@pytest.mark.slow
@pytest.mark.parametrize("name", drill.QUICK)
def test_what_is_promised_holds_under(name, tmp_path):
  outcomes = drill.run([name], tmp_path, quick=True)
  assert all(outcome.held for outcome in outcomes), "\n" + drill.table(outcomes)
