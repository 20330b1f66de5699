# SPDX-License-Identifier: Apache-2.0
"""What benchmarks share: programs timed in turn, and results printed."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping

import jax


def interleaved(programs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
  """Returns each program's median seconds over rounds in which every program runs once.

  So what else the machine does falls on all of them.
  """
  seconds: dict[str, list[float]] = {name: [] for name in programs}
  for program in programs.values():
    jax.block_until_ready(program())  # compiled and warm
  for _ in range(rounds):
    for name, program in programs.items():
      started = time.perf_counter()
      jax.block_until_ready(program())
      seconds[name].append(time.perf_counter() - started)
  return {name: statistics.median(times) for name, times in seconds.items()}


def print_results(results: Mapping[str, float], as_json: bool) -> None:
  """Prints a line for each result, or all of them as one JSON object."""
  rounded = {name: round(value, 3) for name, value in results.items()}
  if as_json:
    print(json.dumps(rounded))
  else:
    for name, value in rounded.items():
      print(f"{name:<60} {value:9.3f}")
