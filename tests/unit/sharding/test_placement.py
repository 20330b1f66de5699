# SPDX-License-Identifier: Apache-2.0
"""Rows of the global batch: which a process supplies and where they come to lie."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from switch_t5.sharding.mesh import MeshShape, make_mesh
from switch_t5.sharding.placement import local_rows, place_batch

BATCH_SIZE, LENGTH = 32, 3
MESHES = [(1, 1, 1), (8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 4, 2), (1, 1, 4)]


def numbered(rows):
  """Features whose values name their row and column: 100 * row + column."""
  tokens = 100 * np.asarray(rows)[:, None] + np.arange(LENGTH)
  return {"tokens": tokens.astype(np.int32), "weights": tokens[:, :1].astype(np.float32)}


@pytest.mark.smoke
@pytest.mark.parametrize("num_microbatches", [1, 2, 4])
@pytest.mark.parametrize("shape", MESHES)
def test_microbatches_hold_the_same_rows_on_every_mesh(shape, num_microbatches):
  mesh = make_mesh(MeshShape(*shape))
  rows = local_rows(mesh, BATCH_SIZE, num_microbatches)
  np.testing.assert_array_equal(rows, np.arange(BATCH_SIZE))  # one process supplies all
  batch = place_batch(numbered(rows), mesh, rows, BATCH_SIZE, num_microbatches)
  whole = {
    name: array.reshape(num_microbatches, -1, array.shape[-1])
    for name, array in numbered(np.arange(BATCH_SIZE)).items()
  }
  per_device = BATCH_SIZE // num_microbatches // MeshShape(*shape).batch_shards
  for name, array in batch.items():
    assert array.dtype == whole[name].dtype
    np.testing.assert_array_equal(array, whole[name])
    for shard in array.addressable_shards:
      assert shard.data.shape == (num_microbatches, per_device, whole[name].shape[-1])
      np.testing.assert_array_equal(shard.data, whole[name][shard.index])


_WORKER = """
import json, sys
import jax, numpy as np
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from switch_t5.sharding.mesh import MeshShape, make_mesh
from switch_t5.sharding.placement import local_rows, place_batch

rows_of = {}
for shape in ((8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 4, 2), (1, 1, 8)):
  for num_microbatches in (1, 2):
    mesh = make_mesh(MeshShape(*shape))
    rows = local_rows(mesh, 32, num_microbatches)
    batch = place_batch({"row": rows[:, None]}, mesh, rows, 32, num_microbatches)["row"]
    whole = np.arange(32).reshape(num_microbatches, -1, 1)
    for shard in batch.addressable_shards:
      np.testing.assert_array_equal(shard.data, whole[shard.index])
    rows_of[f"{shape} {num_microbatches}"] = rows.tolist()
print(json.dumps(rows_of))
"""


def test_two_processes_supply_every_row_between_them():
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
  env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
  workers = [
    subprocess.Popen(
      [sys.executable, "-c", _WORKER, address, str(process)],
      env=env,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for process in range(2)
  ]
  try:
    results = [worker.communicate(timeout=120) for worker in workers]
  finally:
    for worker in workers:
      worker.kill()
  assert [worker.returncode for worker in workers] == [0, 0], results
  first, second = (json.loads(output) for output, _ in results)
  assert first.keys() == second.keys()
  for layout in first:
    assert sorted({*first[layout], *second[layout]}) == list(range(BATCH_SIZE)), layout
    replicated = layout.startswith("(1, 1, 8)")  # both hold columns of every row
    assert (first[layout] == second[layout]) == replicated, layout
    if not replicated:
      assert not {*first[layout]} & {*second[layout]}, layout
