# SPDX-License-Identifier: Apache-2.0
"""Profiler traces: of the steps that are asked for, on a disk and in object storage."""

from __future__ import annotations

import jax.numpy as jnp

from switch_t5.storage import objects
from switch_t5.storage.location import location
from switch_t5.training.trace import StepTrace


def _trace(directory) -> None:
  trace = StepTrace(directory, (1, 2), step=0)
  for step in (1, 2, 3):
    jnp.arange(3).sum().block_until_ready()
    trace.step(step)
  trace.close()


def test_a_trace_in_a_bucket_has_the_files_of_one_on_a_disk(gs_prefix, tmp_path):
  _trace(tmp_path)
  _trace(location(gs_prefix) / "trace")
  on_disk = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
  there = objects.sizes(location(gs_prefix) / "trace")
  assert {f".{name.rpartition('.')[2]}" for name in there} == on_disk and all(there.values())
