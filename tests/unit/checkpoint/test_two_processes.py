# SPDX-License-Identifier: Apache-2.0
"""Two processes of four devices each write one checkpoint and fall back together."""

from __future__ import annotations

import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from switch_t5.checkpoint.listing import list_steps, verify_checkpoint
from switch_t5.checkpoint.manager import CheckpointManager
from switch_t5.checkpoint.manifest import Manifest, read_manifest
from switch_t5.sharding.mesh import MeshShape, make_mesh

_WORKER = """
import pathlib, sys
import jax, numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

directory, process, address = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
jax.distributed.initialize(address, 2, process)

from switch_t5.checkpoint.manager import CheckpointManager
from switch_t5.sharding.mesh import MeshShape, make_mesh

sharding = NamedSharding(make_mesh(MeshShape(2, 2, 2)), PartitionSpec(("data", "expert"), "model"))

def state(step):
  array = np.random.default_rng(step).standard_normal((64, 64)).astype(np.float32)
  return {"w": jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])}

manager = CheckpointManager(directory, keep=2)
for step in (1, 2, 3):
  manager.save(step, state(step), data_state={"rows": step}, config_text="")
manager.wait()

# A file of process 1, which process 0 may be the one to verify, and the other way round.
victim = max((directory / "checkpoint_3/ocdbt.process_1/d").iterdir(), key=lambda f: f.stat().st_size)
multihost_utils.sync_global_devices("saved")
if process == 1:
  data = bytearray(victim.read_bytes())
  data[7] ^= 4
  victim.write_bytes(data)
multihost_utils.sync_global_devices("damaged")

restored = manager.restore(state(0))
(skipped,) = restored.skipped
assert restored.step == 2 and skipped.step == 3, restored
assert victim.name in skipped.reason, skipped
for got, want in zip(restored.state["w"].addressable_shards, state(2)["w"].addressable_shards):
  np.testing.assert_array_equal(got.data, want.data)
manager.save(4, state(4), data_state={"rows": 4}, config_text="")
manager.close()
"""


def _run_two_processes(directory: pathlib.Path) -> None:
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
  env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
  workers = [
    subprocess.Popen(
      [sys.executable, "-W", "error", "-c", _WORKER, str(directory), str(process), address],
      env=env,
      stderr=subprocess.PIPE,
      text=True,
    )
    for process in range(2)
  ]
  try:
    for worker in workers:
      _, errors = worker.communicate(timeout=120)
      assert worker.returncode == 0, errors
  finally:
    for worker in workers:
      worker.kill()


def test_two_processes_write_one_checkpoint_and_fall_back_together(tmp_path):
  _run_two_processes(tmp_path)
  assert list_steps(tmp_path) == [2, 4]
  assert {path.name for path in tmp_path.iterdir()} == {
    "checkpoint_2",
    "checkpoint_3.set_aside",
    "checkpoint_4",
  }
  path = tmp_path / "checkpoint_4"
  assert verify_checkpoint(path) == []
  sealed = read_manifest(path)
  assert isinstance(sealed, Manifest)
  for process in range(2):
    assert any(file.startswith(f"ocdbt.process_{process}/d/") for file in sealed.files)

  want = np.random.default_rng(4).standard_normal((64, 64)).astype(np.float32)
  sharding = NamedSharding(make_mesh(MeshShape(1, 8, 1)), PartitionSpec(None, "expert"))
  manager = CheckpointManager(tmp_path)
  restored = manager.restore({"w": jax.ShapeDtypeStruct(want.shape, want.dtype, sharding=sharding)})
  manager.close()
  np.testing.assert_array_equal(restored.state["w"], want)
