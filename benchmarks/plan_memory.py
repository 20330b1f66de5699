# SPDX-License-Identifier: Apache-2.0
"""Memory of a train step: planned by the compiler, estimated in closed form, and used by a run.

python -m benchmarks.plan_memory

On an accelerator what is used is the allocator's peak; on the CPU the growth of the process's resident
memory while it trains three steps, its peak, and the state. Each model has a process of its own.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

from benchmarks.timing import print_results
from switch_t5.cli import gin_setup
from switch_t5.cli.configurables import CONFIGURABLES
from switch_t5.cli.planned_step import Training
from switch_t5.cli.session import Session, open_session
from switch_t5.planning import memory as closed_form
from switch_t5.planning import program
from switch_t5.planning.step import device_bytes
from switch_t5.training.init import init_state
from switch_t5.types import DeviceBatch

RUN = ("TRAIN_STEPS = 9", "MESH_SHAPE = (1, 1, 1)", "ModelConfig.activation_dtype = 'float32'")
# What each adds to the demo, which has 2 + 2 layers, d 256 and 8 experts.
MODELS = {
  "demo": (),
  "demo, remat attention": ("ModelConfig.remat = 'attention'",),
  "demo, remat full": ("ModelConfig.remat = 'full'",),
  "demo, 128 rows": ("BATCH_SIZE = 128",),
  "demo, 128 rows in 4 microbatches": ("BATCH_SIZE = 128", "NUM_MICROBATCHES = 4"),
}
_STEPS = 3


def worker(name: str) -> dict[str, float]:
  """Returns bytes: planned, estimated and used by a model in this process."""
  bindings = ["MODEL_DIR = 'not written'", *RUN, *MODELS[name]]
  loaded = gin_setup.load(["recipes/pretrain_demo.gin"], bindings, [], CONFIGURABLES)
  config = loaded.call("train")
  training, session = Training(config), open_session(config)
  params = device_bytes(training.arrays.params, training.step)
  with jax.set_mesh(session.mesh):
    compiled = session.trace_train_step(session.abstract).lower().compile()
    planned = program.memory(
      compiled,
      compiled.as_text(),
      params_bytes=params,
      optimizer_bytes=device_bytes(training.arrays.optimizer, training.step),
      batch_bytes=0,
      gradient_bytes=params,
      limit=0,
    )
    estimated = closed_form.memory(training.step, training.arrays, 0)
    state = init_state(session.definition, session.optimizer, session.abstract, seed=0)
    batch, train_step = random_rows(session), session.train_step(compiled)
    grown = -forget_peak()
    for _ in range(_STEPS):
      # One at a time: those that wait have temporaries of their own on the CPU.
      state, _ = jax.block_until_ready(train_step(state, batch))
  grown += peak()
  if jax.devices()[0].platform == "cpu":
    grown += sum(leaf.nbytes for leaf in jax.tree.leaves(state))
  return {"planned": planned.total, "estimated": estimated.total, "used": grown}


def random_rows(session: Session) -> DeviceBatch:
  """Returns a full batch of random ids."""
  rng = np.random.default_rng(0)
  return {
    name: jax.device_put(
      (rng.integers(1, 8000, spec.shape) if "tokens" in name else np.ones(spec.shape)).astype(
        spec.dtype
      ),
      spec.sharding,
    )
    for name, spec in session.abstract_batch().items()
  }


def forget_peak() -> int:
  """Sets the peak back, where there is one of the process, and returns the bytes that are in use."""
  if jax.devices()[0].platform != "cpu":
    return 0
  ctypes.CDLL(None).malloc_trim(0)  # what compilation has left
  Path("/proc/self/clear_refs").write_text("5")
  return _status("VmRSS")


def peak() -> int:
  """Returns the most bytes that were in use."""
  device = jax.devices()[0]
  if device.platform == "cpu":
    return _status("VmHWM")
  return int(device.memory_stats()["peak_bytes_in_use"])


def _status(field: str) -> int:
  found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
  assert found is not None
  return int(found[1]) * 1024


def main() -> None:
  """Prints the ratios."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--json", action="store_true")
  parser.add_argument("--worker")
  arguments = parser.parse_args()
  if arguments.worker:
    print(json.dumps(worker(arguments.worker)))
    return
  results = {}
  for name in MODELS:
    command = [sys.executable, "-m", "benchmarks.plan_memory", "--worker", name]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = json.loads(output.splitlines()[-1])
    results |= {
      f"{name}: used/planned": found["used"] / found["planned"],
      f"{name}: estimated/planned": found["estimated"] / found["planned"],
      f"{name}: planned MB": found["planned"] / 1e6,
    }
  print_results(results, arguments.json)


if __name__ == "__main__":
  main()
