# SPDX-License-Identifier: Apache-2.0
"""The mode `report`: what is in a MODEL_DIR as one page; of several, compared. No device is used."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from switch_t5.checkpoint.best import read_best
from switch_t5.checkpoint.commit import read_text, write_text_durably
from switch_t5.checkpoint.listing import list_checkpoints
from switch_t5.cli import bad_batches, model_file
from switch_t5.cli.flags import CommandLine
from switch_t5.cli.train_config import TrainConfig
from switch_t5.errors import ConfigError, DataError
from switch_t5.metrics import goodput
from switch_t5.metrics.alarms import AlarmConfig, all_alarms
from switch_t5.metrics.piece_counts import PIECES_FILE
from switch_t5.metrics.writer import METRICS_FILE, by_step, read_log
from switch_t5.reports import run_page
from switch_t5.reports.run_content import Checkpoint, Loads, Pieces, RunContent, Warned, by_name
from switch_t5.storage.location import Location, location

REPORT, PLAN = "report.html", "plan.json"
_LEFT_OUT = "the loss or the gradients of its step were not finite, or beyond a limit of BadSteps"
_PERIOD = 30  # seconds between two pages of --watch


def run(command_line: CommandLine) -> None:
  """Writes the page; with --watch again and again, until it is interrupted."""
  folders = [location(path) for path in command_line.arguments[1:]]
  if not folders:
    raise ConfigError(
      "The mode report takes the MODEL_DIR of a run, or of several.",
      rule="switch_t5 report MODEL_DIR ... [--to=FILE] [--watch]",
    )
  target = location(command_line.to) if command_line.to else folders[0] / REPORT
  refresh = _PERIOD if command_line.watch else None
  while True:
    runs = [read_run(folder, name) for folder, name in zip(folders, _names(folders), strict=True)]
    text = run_page.render(runs, refresh)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text_durably(target, text)
    print(f"Written: {target} ({len(text) / 1e6:.1f} MB)", flush=True)
    if refresh is None:
      return
    time.sleep(refresh)


def read_run(folder: Location, name: str) -> RunContent:
  """Returns what is in a MODEL_DIR, of a run that goes on too.

  Args:
    folder: MODEL_DIR.
    name: of it, on the page.

  Raises:
    DataError: if it has no metrics.
  """
  log = read_log(folder / METRICS_FILE)
  if not log.lines:
    raise DataError(
      "There are no metrics to report.",
      value=folder / METRICS_FILE,
      rule="a run writes some every LOG_PERIOD steps",
      remedy="give the MODEL_DIR of a run that has logged",
    )
  rows = by_step(log.lines)
  starts = _json(folder / "run.json", {}).get("starts", [])
  text = _text(folder / "config.gin")
  life = goodput.whole_life(log.lines, starts)
  limits, experts, total_steps = _settings(folder)
  best = read_best(folder)
  return RunContent(
    name=name,
    metrics=by_name(rows),
    starts=starts,
    config=text,
    total_steps=total_steps,
    goodput=goodput.describe(life) if life.total else "",
    seconds=life.seconds,
    checkpoints=[
      Checkpoint(
        info.step, info.bytes, info.committed or "", best is not None and best.step == info.step
      )
      for info in list_checkpoints(folder / "checkpoints")
    ],
    alarms=sorted(
      [
        Warned(alarm.step, alarm.what, alarm.cause, alarm.remedy)
        for alarm in all_alarms(rows, limits, experts)
      ]
      + [
        Warned(batch.step, f"Left out: {batch}", _LEFT_OUT, "BadSteps")
        for batch in bad_batches.read(folder)
      ]
    ),
    loads={
      router: Loads(sorted(found), [found[step] for step in sorted(found)])
      for router, found in log.loads.items()
    },
    pieces=_pieces(folder),
    plan=_json(folder / PLAN, None),
  )


def _pieces(folder: Location) -> dict[str, list[Pieces]]:
  """Returns what the last evaluation counted; nothing if it is not there, or not as we write it."""
  try:
    return {
      router: [
        Pieces(int(expert["tokens"]), *(_shares(expert[name]) for name in ("top", "own")))
        for expert in experts
      ]
      for router, experts in _json(folder / PIECES_FILE, {})["routers"].items()
    }
  except (AttributeError, KeyError, TypeError, ValueError):
    return {}


def _shares(pieces: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
  return [(str(piece), float(share)) for piece, share in pieces]


def _settings(folder: Location) -> tuple[AlarmConfig, int, int | None]:
  """Returns a run's limits of alarms, number of experts and TRAIN_STEPS, of its own configuration."""
  config: TrainConfig | None = model_file.configured(folder / "config.gin", "train")
  if config is None:  # it is of another version
    return AlarmConfig(), 1, None
  return config.alarms or AlarmConfig(), config.model.num_experts, config.total_steps


def _names(folders: list[Location]) -> list[str]:
  """Returns the last part of each path, or as much of it as tells them apart."""
  depth = 1
  parts = [str(folder).rstrip("/").split("/") for folder in folders]
  while depth < max(map(len, parts)) and len({tuple(p[-depth:]) for p in parts}) < len(
    {tuple(p) for p in parts}
  ):
    depth += 1
  return ["/".join(part[-depth:]) for part in parts]


def _text(path: Location) -> str:
  try:
    return read_text(path)
  except OSError:
    return ""


def _json(path: Location, otherwise: Any) -> Any:
  """Returns a JSON file's content; `otherwise` if there is none, or none that can be read."""
  try:
    return json.loads(read_text(path))
  except (OSError, ValueError):
    return otherwise
