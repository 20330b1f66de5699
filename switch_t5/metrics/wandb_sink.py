# SPDX-License-Identifier: Apache-2.0
"""The same metrics for Weights & Biases, where that package is installed."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping

from switch_t5.errors import ConfigError
from switch_t5.storage.location import Location, is_remote


def check_installed(project: str) -> None:
  """Raises a ConfigError if the package is not there."""
  if importlib.util.find_spec("wandb") is None:
    raise ConfigError(
      "Weights & Biases is not installed.",
      value=f"wandb_project = {project!r}",
      remedy='pip install "switch_t5[wandb]", or leave wandb_project out',
    )


class WandbSink:
  """Sends metrics; its environment variables (WANDB_API_KEY, WANDB_MODE=offline) hold.

  A run that goes on in the same MODEL_DIR goes on as the same run there.

  Args:
    model_dir: MODEL_DIR, an existing directory.
    project: the project's name.
    config: what describes the run.
  """

  def __init__(self, model_dir: Location, project: str, config: Mapping[str, object]):
    import wandb

    path = model_dir if is_remote(model_dir) else model_dir.absolute()
    self._run = wandb.init(
      project=project,
      id=hashlib.sha256(str(path).encode()).hexdigest()[:16],
      name=path.name,
      dir=None if is_remote(path) else str(path),  # its own files: then in the current folder
      config=dict(config),
      resume="allow",
    )

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Sends the metrics of a step."""
    self._run.log(dict(metrics), step=step)

  def close(self) -> None:
    """Sends what is left."""
    self._run.finish()
