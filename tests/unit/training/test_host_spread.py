# SPDX-License-Identifier: Apache-2.0
"""A host is named where the others wait for it, and only there."""

from __future__ import annotations

import numpy as np
import pytest

from switch_t5.training.host_spread import HostSpread, describe_slowest

NAMES = ["a", "b", "c", "d"]


def test_the_host_that_takes_a_third_of_the_step_is_named():
  said = describe_slowest(np.array([0.02, 0.03, 0.4, 0.02]), 1.2, NAMES)
  assert said == (
    "Slow host: process 2 (c) spends 0.4 s of a step of 1.2 s outside its devices, "
    "the median of the others is 0.02 s"
  )


def test_one_of_two_can_be_named():
  assert "process 0 (a)" in describe_slowest(np.array([0.9, 0.1]), 1.0, NAMES)


@pytest.mark.parametrize(
  "host_seconds",
  [
    [0.02, 0.02, 0.11, 0.02],  # a twelfth of the step
    [0.5, 0.5, 0.7, 0.5],  # all are slow
    [0.02, 0.02, 0.02, 0.02],
  ],
)
def test_hosts_that_nobody_waits_for_are_not_named(host_seconds):
  assert describe_slowest(np.array(host_seconds), 1.2, NAMES) is None


def test_one_process_has_no_spread():
  assert HostSpread(print)(0.5, 1.0) == {}
