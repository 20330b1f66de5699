# SPDX-License-Identifier: Apache-2.0
"""Errors for the user."""

from __future__ import annotations

import jax.numpy as jnp
import pytest

from switch_t5.errors import CheckpointError, ConfigError, memory_for


def test_what_a_terminal_would_obey_is_escaped():
  error = CheckpointError("Wrong:\n  + a\x1b[2J", value="b\0\ud800 \u00e9", rule="one\ntwo")
  assert str(error) == "Wrong:\n  + a\\x1b[2J\n  value:  b\\x00\\ud800 \u00e9\n  rule:   one\ntwo"


def test_what_does_not_fit_the_memory_is_said_with_its_size_and_remedy():
  with (
    pytest.raises(ConfigError, match="A table does not fit the memory of a device") as caught,
    memory_for("A table", value="2**50 numbers", remedy="a smaller one"),
  ):
    jnp.zeros(1 << 50).block_until_ready()
  assert caught.value.value == "2**50 numbers"
  assert "RESOURCE_EXHAUSTED" in caught.value.rule


def test_other_errors_of_what_runs_stay_what_they_are():
  with pytest.raises(RuntimeError, match="broken"), memory_for("A table", value=1, remedy=""):
    raise RuntimeError("broken")
