# SPDX-License-Identifier: Apache-2.0
"""Times several programs in turn, so that what else the machine does falls on all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import jax


def interleaved(programs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
  """Returns each program's median seconds over rounds in which every program runs once."""
  seconds: dict[str, list[float]] = {name: [] for name in programs}
  for program in programs.values():
    jax.block_until_ready(program())  # compiled and warm
  for _ in range(rounds):
    for name, program in programs.items():
      started = time.perf_counter()
      jax.block_until_ready(program())
      seconds[name].append(time.perf_counter() - started)
  return {name: statistics.median(times) for name, times in seconds.items()}
