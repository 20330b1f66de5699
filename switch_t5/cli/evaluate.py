# SPDX-License-Identifier: Apache-2.0
"""The mode `eval`: one checkpoint on the validation split of its task."""

from __future__ import annotations

import json
from pathlib import Path

import jax

from switch_t5.checkpoint.manager import CheckpointManager
from switch_t5.cli import distributed, gin_setup, platform
from switch_t5.cli.configurables import CONFIGURABLES
from switch_t5.cli.flags import CommandLine
from switch_t5.cli.run_data import open_data
from switch_t5.cli.session import open_session
from switch_t5.cli.train_config import EvalConfig, TrainConfig
from switch_t5.errors import CheckpointError


def run(command_line: CommandLine) -> None:
  """Prints the metrics of a checkpoint; with --json as one object."""
  configuration = gin_setup.load_command_line(command_line, CONFIGURABLES)
  config: EvalConfig = configuration.call("evaluate")
  train: TrainConfig = configuration.call("train")
  distributed.start(command_line)
  platform.require(command_line.platform)
  platform.use_compilation_cache()
  session = open_session(train)
  train.dataset.check_task()
  with jax.set_mesh(session.mesh):
    directory = Path(train.model_dir) / "checkpoints"
    restored = CheckpointManager(directory).restore(
      {"params": session.abstract.params}, config.checkpoint_step, partial=True
    )
    if restored is None:
      raise CheckpointError(
        "There is no checkpoint to evaluate.",
        value=directory,
        remedy="set MODEL_DIR to the folder of a trained model",
      )
    data = open_data(train.dataset, session.model)
    metrics = session.held_out_metrics(session.build_eval_step(), restored.state["params"], data)
  if jax.process_index() != 0:
    return
  if command_line.json:
    print(json.dumps({"step": restored.step} | metrics))
    return
  print(f"Checkpoint {restored.step} of {train.model_dir}")
  for name, value in metrics.items():
    print(f"  {name:<60} {value:.4f}")
