# SPDX-License-Identifier: Apache-2.0
"""What crosses processes outside of the compiled programs: rows of a batch, and small JSON."""

from __future__ import annotations

import json
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding

from switch_t5.sharding.rules import named_sharding
from switch_t5.types import DeviceBatch, HostBatch

BATCH_AXES = (None, "batch", None)  # [microbatches, rows, length]


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of a batch [microbatches, rows, length]: rows over data and expert."""
  return named_sharding(mesh, BATCH_AXES)


def local_rows(mesh: Mesh, batch_size: int, num_microbatches: int) -> np.ndarray:
  """Returns which rows of the global batch this process must supply, ascending.

  Microbatch i holds rows [i * b, (i + 1) * b) of the batch, b = batch_size / num_microbatches, on
  any mesh: what is accumulated does not depend on the layout.
  """
  rows = np.arange(batch_size).reshape(num_microbatches, -1, 1)
  indices = batch_sharding(mesh).addressable_devices_indices_map(rows.shape).values()
  return np.unique(np.concatenate([rows[index].ravel() for index in indices]))


def place_batch(
  local: HostBatch, mesh: Mesh, rows: np.ndarray, batch_size: int, num_microbatches: int
) -> DeviceBatch:
  """Makes global arrays [num_microbatches, batch_size / num_microbatches, length, ...].

  Args:
    local: features [len(rows), length, ...] of this process's rows.
    mesh: the mesh.
    rows: what `local_rows` returned.
    batch_size: rows of the global batch.
    num_microbatches: see `local_rows`.
  """
  sharding = batch_sharding(mesh)
  row_ids = np.arange(batch_size).reshape(num_microbatches, -1)

  def place(array: np.ndarray) -> jax.Array:
    def shard(index):
      return array[np.searchsorted(rows, row_ids[index[:2]])][:, :, *index[2:]]

    shape = (*row_ids.shape, *array.shape[1:])
    return jax.make_array_from_callback(shape, sharding, shard)

  return {name: place(array) for name, array in local.items()}


def from_all_processes(value: Any) -> list[Any]:
  """Returns the JSON value that each process gives, in their order; all must call it."""
  if jax.process_count() == 1:
    return [value]
  content = np.frombuffer(json.dumps(value).encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.array(content.size))
  padded = np.pad(content, (0, int(sizes.max()) - content.size))
  gathered = multihost_utils.process_allgather(padded)
  return [json.loads(row[:size].tobytes()) for row, size in zip(gathered, sizes, strict=True)]
