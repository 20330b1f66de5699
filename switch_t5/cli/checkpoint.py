# SPDX-License-Identifier: Apache-2.0
"""The modes `checkpoint ls`, `checkpoint verify` and `checkpoint diff`."""

from __future__ import annotations

import json

from switch_t5.checkpoint.best import Best, read_best
from switch_t5.checkpoint.listing import CheckpointInfo, list_checkpoints, verify_checkpoint
from switch_t5.checkpoint.manifest import MANIFEST
from switch_t5.cli.flags import CommandLine
from switch_t5.errors import CheckpointError, ConfigError, suggest
from switch_t5.interop import detect, difference
from switch_t5.storage import files
from switch_t5.storage.location import Location, location

ACTIONS = ("ls", "verify", "diff")
DIFFERENT = 1  # as diff(1) has it


def run(command_line: CommandLine) -> int:
  """Lists, verifies or compares checkpoints; returns 3 if one is damaged, 1 if two differ."""
  arguments = command_line.arguments[1:]
  action = arguments[0] if arguments else None
  if action not in ACTIONS or len(arguments) != (3 if action == "diff" else 2):
    raise ConfigError(
      "The mode checkpoint takes an action and a folder, or two checkpoints to compare.",
      value=" ".join(arguments) or None,
      rule="switch_t5 checkpoint ls|verify MODEL_DIR, or switch_t5 checkpoint diff A B",
      remedy=suggest(action, ACTIONS) if action else None,
    )
  if action == "diff":
    return _diff(*arguments[1:], as_json=command_line.json)
  folder = location(arguments[1])
  if action == "verify" and files.exists(folder / MANIFEST):
    return _report_one(folder, as_json=command_line.json)
  directory = folder if folder.name == "checkpoints" else folder / "checkpoints"
  infos = list_checkpoints(directory, verify=action == "verify")
  if not infos:
    raise CheckpointError(
      "There are no checkpoints.", value=directory, remedy="give the MODEL_DIR of a run that saved"
    )
  best = read_best(directory.parent)
  if command_line.json:
    print(json.dumps([_as_dict(info, best) for info in infos], indent=2))
  else:
    for info in infos:
      _print(info, best)
  return CheckpointError.exit_code if any(info.problems for info in infos) else 0


def _diff(first_path: str, second_path: str, *, as_json: bool) -> int:
  """Prints how two checkpoints of any formats differ."""
  first, second = (detect.open_checkpoint(path) for path in (first_path, second_path))
  names, aside = difference.compared(first, second)
  found = difference.differences(first, second)
  if as_json:
    rows = [row._asdict() for row in found]
    both = [f"{checkpoint.path} ({checkpoint.format})" for checkpoint in (first, second)]
    print(json.dumps({"compared": len(names), "between": both, "differences": rows}, indent=2))
    return DIFFERENT if rows else 0
  print(f"- {first.path} ({first.format})\n+ {second.path} ({second.format})")
  if aside:
    print(aside)
  count = 0
  for row in found:
    count += 1
    print(f"  {row}", flush=True)
  print(
    f"{count} of {len(names)} arrays differ." if count else f"All {len(names)} arrays are equal."
  )
  return DIFFERENT if count else 0


def _report_one(folder: Location, *, as_json: bool) -> int:
  problems = [str(problem) for problem in verify_checkpoint(folder)]
  if as_json:
    print(json.dumps({"path": str(folder), "problems": problems}, indent=2))
  else:
    print(f"{folder}  {'DAMAGED' if problems else 'good'}")
    for problem in problems:
      print(f"    {problem}")
  return CheckpointError.exit_code if problems else 0


def _as_dict(info: CheckpointInfo, best: Best | None) -> dict[str, object]:
  problems = None if info.problems is None else [str(problem) for problem in info.problems]
  is_best = best is not None and best.step == info.step
  return info._asdict() | {"path": str(info.path), "problems": problems, "best": is_best}


def _print(info: CheckpointInfo, best: Best | None) -> None:
  verdict = "" if info.problems is None else ("  DAMAGED" if info.problems else "  good")
  saved = info.committed or "time unknown"
  if best is not None and best.step == info.step:
    verdict += f"  best: {best.metric} {best.value:.4g}"
  print(
    f"{info.path.name:<20} {info.bytes / 1e6:>10.1f} MB {info.files:>4} files  {saved}{verdict}"
  )
  for problem in info.problems or []:
    print(f"    {problem}")
