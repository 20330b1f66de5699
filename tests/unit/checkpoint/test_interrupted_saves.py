# SPDX-License-Identifier: Apache-2.0
"""Saves that are killed or run out of space, in processes of their own."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time

from switch_t5.checkpoint.listing import list_checkpoints

_STATE = """
import pathlib, resource, sys
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from switch_t5.checkpoint.manager import CheckpointManager
from switch_t5.checkpoint.listing import list_steps
from switch_t5.errors import CheckpointError
from switch_t5.sharding.mesh import MeshShape, make_mesh

sharding = NamedSharding(make_mesh(MeshShape(2, 2, 2)), PartitionSpec("expert", "model"))

def state(step):
  array = np.random.default_rng(step).standard_normal((512, 512)).astype(np.float32)
  return {"w": jax.device_put(array, sharding)}

def save(step):
  manager.save(step, state(step), data_state={"rows": step}, config_text="")

manager = CheckpointManager(sys.argv[1])
"""

_SAVE_UNTIL_KILLED = (
  _STATE
  + """
restored = manager.restore(state(0))
step = 0
if restored is not None:
  step = restored.step
  assert restored.skipped == ()
  np.testing.assert_array_equal(restored.state["w"], state(step)["w"])
print("at", step, flush=True)
while True:
  step += 1
  save(step)  # returns once the step before is on disk
  print("at", step - 1, flush=True)
"""
)

_RUN_OUT_OF_SPACE = (
  _STATE
  + """
save(1)
manager.wait()
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
for surface in (manager.wait, lambda: save(3)):
  save(2)
  try:
    surface()
  except CheckpointError as error:
    assert error.exit_code == 3, error
    assert "step 2 was not saved" in str(error) and "File too large" in str(error), error
  else:
    raise AssertionError("the failure was silent")
  assert list_steps(pathlib.Path(sys.argv[1])) == [1]
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
save(4)
manager.close()
"""
)


def test_kill_9_while_saving_always_leaves_a_good_step(tmp_path):
  rng = random.Random(0)
  last = 0
  for _ in range(3):
    with subprocess.Popen(
      [sys.executable, "-c", _SAVE_UNTIL_KILLED, str(tmp_path)],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    ) as run:
      first = int(run.stdout.readline().split()[1])
      assert first >= last, run.stderr.read()
      for _ in range(rng.randrange(3, 8)):
        last = int(run.stdout.readline().split()[1])
      time.sleep(rng.uniform(0, 0.1))
      run.send_signal(signal.SIGKILL)
    checkpoints = list_checkpoints(tmp_path, verify=True)
    assert all(checkpoint.problems == [] for checkpoint in checkpoints)
    assert checkpoints[-1].step >= last


def test_a_save_that_runs_out_of_space_is_an_error_and_harms_no_other(tmp_path):
  subprocess.run([sys.executable, "-c", _RUN_OUT_OF_SPACE, str(tmp_path)], check=True)
  checkpoints = list_checkpoints(tmp_path, verify=True)
  assert [(c.step, c.problems) for c in checkpoints] == [(1, []), (4, [])]
  assert len(list(tmp_path.iterdir())) == 2
