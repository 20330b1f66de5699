# SPDX-License-Identifier: Apache-2.0
"""The modes `checkpoint ls` and `checkpoint verify`."""

from __future__ import annotations

import json
from pathlib import Path

from switch_t5.checkpoint.listing import CheckpointInfo, list_checkpoints, verify_checkpoint
from switch_t5.checkpoint.manifest import MANIFEST
from switch_t5.cli.flags import CommandLine
from switch_t5.errors import CheckpointError, ConfigError, suggest

ACTIONS = ("ls", "verify")


def run(command_line: CommandLine) -> int:
  """Lists or verifies the checkpoints of a MODEL_DIR; returns 3 if one is damaged."""
  arguments = command_line.arguments[1:]
  if len(arguments) != 2 or arguments[0] not in ACTIONS:
    raise ConfigError(
      "The mode checkpoint takes an action and a folder.",
      value=" ".join(arguments) or None,
      rule="switch_t5 checkpoint ls|verify MODEL_DIR",
      remedy=suggest(arguments[0], ACTIONS) if arguments else None,
    )
  action, folder = arguments[0], Path(arguments[1])
  if action == "verify" and (folder / MANIFEST).exists():
    return _report_one(folder, as_json=command_line.json)
  directory = folder if folder.name == "checkpoints" else folder / "checkpoints"
  infos = list_checkpoints(directory, verify=action == "verify")
  if not infos:
    raise CheckpointError(
      "There are no checkpoints.", value=directory, remedy="give the MODEL_DIR of a run that saved"
    )
  if command_line.json:
    print(json.dumps([_as_dict(info) for info in infos], indent=2))
  else:
    for info in infos:
      _print(info)
  return CheckpointError.exit_code if any(info.problems for info in infos) else 0


def _report_one(folder: Path, *, as_json: bool) -> int:
  problems = [str(problem) for problem in verify_checkpoint(folder)]
  if as_json:
    print(json.dumps({"path": str(folder), "problems": problems}, indent=2))
  else:
    print(f"{folder}  {'DAMAGED' if problems else 'good'}")
    for problem in problems:
      print(f"    {problem}")
  return CheckpointError.exit_code if problems else 0


def _as_dict(info: CheckpointInfo) -> dict[str, object]:
  problems = None if info.problems is None else [str(problem) for problem in info.problems]
  return info._asdict() | {"path": str(info.path), "problems": problems}


def _print(info: CheckpointInfo) -> None:
  verdict = "" if info.problems is None else ("  DAMAGED" if info.problems else "  good")
  saved = info.committed or "time unknown"
  print(
    f"{info.path.name:<20} {info.bytes / 1e6:>10.1f} MB {info.files:>4} files  {saved}{verdict}"
  )
  for problem in info.problems or []:
    print(f"    {problem}")
