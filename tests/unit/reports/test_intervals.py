# SPDX-License-Identifier: Apache-2.0
"""Pictures of intervals."""

from __future__ import annotations

import pytest

from switch_t5.reports import intervals


def test_a_picture_is_a_png(tmp_path):
  pytest.importorskip("matplotlib")
  entries = [
    intervals.Entry("no help", [0.0, 0.0], 0.0),
    intervals.Entry("teacher", [0.1, 0.12], 0.11, 0.05, 0.17),
  ]
  intervals.draw(tmp_path / "a.png", entries, title="A study", axis="nats")
  assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
