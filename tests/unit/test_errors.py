# SPDX-License-Identifier: Apache-2.0
"""Errors for the user."""

from __future__ import annotations

from switch_t5.errors import CheckpointError


def test_what_a_terminal_would_obey_is_escaped():
  error = CheckpointError("Wrong:\n  + a\x1b[2J", value="b\0\ud800 \u00e9", rule="one\ntwo")
  assert str(error) == "Wrong:\n  + a\\x1b[2J\n  value:  b\\x00\\ud800 \u00e9\n  rule:   one\ntwo"
