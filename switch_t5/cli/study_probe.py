# SPDX-License-Identifier: Apache-2.0
"""What a study measures beside its runs, once they are done: of a trained model, and of a compiled step."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from switch_t5.batch import ENCODER_INPUT_TOKENS, ENCODER_SEGMENT_IDS
from switch_t5.checkpoint.commit import write_text_durably
from switch_t5.checkpoint.manager import CheckpointManager
from switch_t5.cli.run_data import open_data
from switch_t5.cli.session import Session, open_session
from switch_t5.cli.study_runs import Planned, StudyRuns
from switch_t5.studies import precision
from switch_t5.studies.router_precision import RouterInputs, measure, router_inputs
from switch_t5.types import DeviceBatch, PyTree

PROBED = "probed.json"
_BATCHES = 8
_LARGER_GROUPS = (1024, 4096, 8192)  # tokens; 8192 is Switch-Base's
_DEVICES = 8

Facts = dict[str, dict[str, float]]  # by arm


def of_precision(study: StudyRuns) -> Facts:
  """Returns what `studies/precision.py` shows beside its table; measured once, then read again."""
  path = study.folder / PROBED
  if path.exists():
    found: Facts = json.loads(path.read_text(encoding="utf-8"))
    return found
  print("Asking the routers of a trained model, and compiling for 8 devices ...", flush=True)
  with study.to_log("probe"):
    found = {arm.name: all_to_all_bytes(study, arm.name) for arm in study.family.arms}
    found[precision.FLOAT32] |= broken_choices(study)
  write_text_durably(path, json.dumps(found, indent=2) + "\n")
  return found


PROBES: Mapping[str, Callable[[StudyRuns], Facts]] = {precision.PRECISION.name: of_precision}


def broken_choices(study: StudyRuns) -> dict[str, float]:
  """Returns what a bfloat16 router would break of the float32 model of seed 0; {} if it diverged."""
  planned = Planned(study.family.arm(precision.FLOAT32), 0)
  session = open_session(study.configs[precision.FLOAT32])
  directory = study.path(planned) / "checkpoints"
  with session.on_mesh():
    restored = CheckpointManager(directory).restore(
      {"params": session.abstract.params}, None, partial=True
    )
    if restored is None:
      return {}
    routers = _asked(session, restored.state["params"])
  own = int(study.facts[precision.FLOAT32]["encoder_group"])
  broken = measure(routers, sorted({own, *_LARGER_GROUPS}))
  return {
    precision.TOKENS: broken.tokens,
    precision.FLIPS_FLOAT32: broken.flips_float32,
    precision.FLIPS_BFLOAT16: broken.flips_bfloat16,
    **{f"{precision.COLLIDING}{group}": count for group, count in broken.colliding.items()},
    **{f"{precision.ROUTED}{group}": count for group, count in broken.routed.items()},
  }


def _asked(session: Session, params: PyTree) -> list[RouterInputs]:
  """Returns what each router of the encoder reads of the first batches of the validation split."""

  @jax.jit
  def ask(params: PyTree, batch: DeviceBatch) -> list[tuple[jax.Array, jax.Array]]:
    model = session.definition.build(params)
    tokens, segments = (batch[n][0] for n in (ENCODER_INPUT_TOKENS, ENCODER_SEGMENT_IDS))
    return router_inputs(model, tokens, segments, session.model.eval_capacity_factor)

  data = open_data(session.config.dataset, session.model)
  inputs: dict[int, list[np.ndarray]] = {}
  kernels: dict[int, np.ndarray] = {}
  for batch in itertools.islice(session.validation_batches(data), _BATCHES):
    is_real = np.asarray(batch[ENCODER_SEGMENT_IDS][0]).reshape(-1) > 0
    for index, (read, kernel) in enumerate(jax.device_get(ask(params, batch))):
      inputs.setdefault(index, []).append(np.asarray(read, np.float32)[is_real])
      kernels[index] = np.asarray(kernel)
  return [RouterInputs(np.concatenate(inputs[index]), kernels[index]) for index in inputs]


def all_to_all_bytes(study: StudyRuns, arm: str) -> dict[str, float]:
  """Returns bytes of one device in the all-to-alls of a step on 8 devices, all along expert.

  Those of the program compiled for emulated devices, and those that the layout needs. In a process of
  its own: this one has the devices that it has.
  """
  config = study.configs[arm]
  group = config.model.with_lengths(config.dataset.encoder_length).sequences_per_group or 1
  unit = _DEVICES * group
  rows = -(-config.dataset.batch_size // unit) * unit
  mesh = f"MESH_SHAPE = (1, {_DEVICES}, 1)"
  planned = Planned(study.family.arm(arm), 0)
  command = study.command(planned, study.folder, mesh, f"BATCH_SIZE = {rows}")
  done = subprocess.run(
    [
      *(sys.executable, "-m", "switch_t5.cli.main", "plan", f"--topology=cpu:{_DEVICES}", "--json"),
      *(f"--gin_file={name}" for name in command.gin_files),
      *(f"--gin_bindings={text}" for text in command.gin_bindings),
      *(f"--gin_search_paths={path}" for path in command.gin_search_paths),
      *(f"--import={module}" for module in command.imports),
    ],
    env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    capture_output=True,
    text=True,
    check=False,
  )
  if done.returncode not in (0, 1):  # 1: it would not fit
    raise RuntimeError(f"The plan of {arm} failed:\n{done.stderr}")
  plan = json.loads(done.stdout)
  return {
    precision.BYTES: bytes_of(plan["collectives"]),
    precision.BYTES_NEEDED: bytes_of(plan["bounds"]),
  }


def bytes_of(collectives: Sequence[Mapping[str, Any]]) -> int:
  """Returns the bytes of the all-to-alls among collectives of a plan as JSON."""
  return sum(found["total"] for found in collectives if found["kind"].endswith("all-to-all"))
