# SPDX-License-Identifier: Apache-2.0
"""run.json and config.gin: what a MODEL_DIR was made with."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
from typing import Any

import jax

from switch_t5 import __version__
from switch_t5.checkpoint.commit import read_text
from switch_t5.storage import objects
from switch_t5.storage.location import Location, is_remote

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def describe_start(mesh_shape: tuple[int, ...], step: int, data: dict[str, Any]) -> dict[str, Any]:
  """Returns what a start of a run is recorded with."""
  versions = {name: importlib.metadata.version(name) for name in PACKAGES}
  devices = jax.devices()
  return {
    "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "step": step,
    "versions": {"switch_t5": __version__, "python": platform.python_version()} | versions,
    "devices": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
    "processes": jax.process_count(),
    "mesh": dict(zip(("data", "expert", "model"), mesh_shape, strict=True)),
    "data": data,
  }


def write(model_dir: Location, config_text: str, start: dict[str, Any]) -> None:
  """Writes config.gin, and adds a start to run.json: the first, then one for each restart."""
  path = model_dir / "run.json"
  try:
    starts = json.loads(read_text(path))["starts"]
  except FileNotFoundError:
    starts = []
  starts.append(start)
  text = json.dumps({"restarts": len(starts) - 1, "starts": starts}, indent=2) + "\n"
  if is_remote(model_dir):
    objects.write(model_dir / "config.gin", config_text.encode())
    objects.write(path, text.encode())
    return
  (model_dir / "config.gin").write_text(config_text)
  temporary = path.with_suffix(".tmp")
  temporary.write_text(text)
  temporary.replace(path)


def changed_lines(before: str, now: str) -> list[str]:
  """Returns the lines of a configuration that a checkpoint's did not have."""
  known = set(before.splitlines())
  return [line for line in now.splitlines() if line and line not in known]
