# SPDX-License-Identifier: Apache-2.0
"""`study sweep`: trials over gin bindings of the user's, all combinations or some at random.

Each trial is a run, its whole configuration a file in the study's folder. A rung sets `train.total_steps`
and leaves TRAIN_STEPS, so that a schedule that goes by TRAIN_STEPS is the same on every rung.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from switch_t5.checkpoint.commit import write_text_durably
from switch_t5.checkpoint.run_lock import RunLock
from switch_t5.cli import study_report
from switch_t5.cli.flags import CommandLine
from switch_t5.cli.gin_text import format_value
from switch_t5.cli.gin_walk import Macro, Reference, walk_binding
from switch_t5.cli.study_runs import TIMED_STEPS, Planned, StudyRuns
from switch_t5.errors import ConfigError
from switch_t5.reports import intervals
from switch_t5.storage.location import on_disk
from switch_t5.studies import sweep
from switch_t5.studies.curves import Run
from switch_t5.studies.family import Arm, Family
from switch_t5.studies.sweep import Range, Settings

OWN = ("MODEL_DIR", "SEED", "TRAIN_STEPS", "train.total_steps")
_EXAMPLE = '--vary.learning_rate_schedule.base_learning_rate="[0.3, 1.0]"'

Varied = dict[str, Sequence[Any] | Range]


class Sweep(StudyRuns):
  """The trials of a sweep; see `StudyRuns`."""

  def claim(self) -> None:
    """See `StudyRuns`; also writes each trial's whole configuration."""
    super().claim()
    for arm, text in self.settings.items():
      path = self._file(arm)
      path.parent.mkdir(exist_ok=True)
      write_text_durably(path, text)

  def command_up_to(self, planned: Planned, steps: int) -> CommandLine:
    """See `StudyRuns`."""
    return self._short(planned, self.folder, f"train.total_steps = {steps}")

  def command_to_time(self, planned: Planned, folder: Path) -> CommandLine:
    """See `StudyRuns`."""
    steps = f"train.total_steps = {TIMED_STEPS}"
    return self._short(planned, folder, steps, f"train.log_period = {TIMED_STEPS // 2}")

  def _short(self, planned: Planned, folder: Path, *more: str) -> CommandLine:
    model_dir = json.dumps(str(folder / planned.name))
    return dataclasses.replace(
      self.command(planned, folder),
      gin_files=(str(self._file(planned.arm.name)),),
      gin_bindings=(f"MODEL_DIR = {model_dir}", f"SEED = {planned.seed}", *more),
    )

  def _file(self, arm: str) -> Path:
    return self.folder / "settings" / f"{arm}.gin"


def run(command_line: CommandLine) -> None:
  """Runs a sweep, or what is left of it, and prints and writes its table."""
  varied = _parse(command_line)
  settings = _trials(varied, command_line.random)
  arms = [_arm(index, trial) for index, trial in enumerate(settings)]
  family = Family("sweep", "Sweep", tuple(arms), arms[0].name)
  by_arm = {arm.name: trial for arm, trial in zip(arms, settings, strict=True)}
  folder = on_disk(command_line.to or "studies/sweep", "The folder of a study")
  seeds = command_line.seeds or 1
  _check_bindings(command_line, varied)
  study = Sweep(command_line, family, "", folder, seeds)
  if command_line.dry_run:
    print(study.commands())
    return
  intervals.check_installed()
  with RunLock(folder):
    study.claim()
    runs = _train(study)
    title = f"Sweep: {len(arms)} trials, {study.steps:,} steps"
    about = {"study": family.name, "steps": study.steps, "seeds": seeds}
    print(f"\n{study_report.write(study, sweep.outcome(family, title, runs, by_arm), about)}")


def _train(study: Sweep) -> dict[str, list[Run]]:
  """Trains rung after rung; returns the runs of every trial up to where it came."""
  arms = list(study.family.arms)
  runs: dict[str, list[Run]] = {}
  rungs = sweep.rungs(len(arms), study.steps)
  for number, rung in enumerate(rungs, start=1):
    if number > 1:
      best = sweep.ranked({arm.name: runs[arm.name] for arm in arms})[: rung.trials]
      arms = [arm for arm in arms if arm.name in best]
    print(
      f"Rung {number} of {len(rungs)}: {len(arms)} trials up to step {rung.steps:,}", flush=True
    )
    plan = [planned for planned in study.plan if planned.arm in arms]
    study.train(plan, rung.steps)
    runs |= {
      arm.name: [study.read(planned, rung.steps) for planned in plan if planned.arm == arm]
      for arm in arms
    }
  return runs


def _parse(command_line: CommandLine) -> Varied:
  """Returns what is varied, by name."""
  found: Varied = {}
  for text in command_line.vary:
    for statement in walk_binding(text):
      found[statement.key] = _values(statement.key, statement.value)
  if not found:
    raise ConfigError(
      "A sweep varies nothing.",
      rule='--vary.NAME="[VALUE, ...]", or with --random=N also --vary.NAME="(LEAST, GREATEST)"',
      remedy=_EXAMPLE,
    )
  if own := [name for name in found if name in OWN]:
    raise ConfigError(
      "The study sets this itself.", value=own[0], rule=f"so for {', '.join(OWN)} in a sweep"
    )
  return found


def _values(name: str, value: Any) -> Sequence[Any] | Range:
  if isinstance(value, list) and value:
    return value
  numbers = isinstance(value, tuple) and all(type(end) in (int, float) for end in value)
  if numbers and len(value) == 2 and value[0] < value[1]:
    return Range(*value)
  raise ConfigError(
    "These are no values to try.",
    value=f"--vary.{name}={format_value(value)}",
    rule="a list of values, or a range (LEAST, GREATEST) of numbers",
    remedy=_EXAMPLE,
  )


def _trials(varied: Varied, count: int | None) -> list[Settings]:
  """Returns the trials; raises ConfigError for fewer than two."""
  if count is not None:
    return sweep.drawn(varied, count)
  lists: dict[str, Sequence[Any]] = {}
  for name, values in varied.items():
    if isinstance(values, Range):
      raise ConfigError(
        "A range has no end of values.",
        value=f"--vary.{name}={tuple(values)}",
        rule="all combinations are of lists",
        remedy="--random=N draws N trials; or give a list",
      )
    lists[name] = values
  trials = sweep.grid(lists)
  if len(trials) < 2:
    raise ConfigError("A sweep has one trial.", rule="two or more are compared", remedy=_EXAMPLE)
  return trials


def _arm(index: int, settings: Settings) -> Arm:
  bindings = tuple(f"{name} = {format_value(value)}" for name, value in settings.items())
  title = ", ".join(f"{name.rpartition('.')[2]} {_shown(v)}" for name, v in settings.items())
  # The first one's pace stands for all: a guess, where settings change the model.
  timed_as = "trial00" if index else None
  return Arm(f"trial{index:02}", title, None, bindings=bindings, timed_as=timed_as)


def _shown(value: Any) -> str:
  return str(value) if isinstance(value, Macro | Reference) else format_value(value)


def _check_bindings(command_line: CommandLine, varied: Mapping[str, Any]) -> None:
  """Raises ConfigError for what a sweep sets itself, does not take, or lacks."""
  for text in command_line.gin_bindings:
    name = text.partition("=")[0].strip()
    if name in ("MODEL_DIR", "SEED", *varied):
      raise ConfigError("The study sets this itself.", value=text, remedy="leave it out")
  if command_line.size is not None:
    raise ConfigError(
      "A sweep has no size.", value=f"--size={command_line.size}", remedy="its files say how large"
    )
  if not command_line.gin_files:
    raise ConfigError(
      "A sweep needs the files of a run.",
      rule="those of `switch_t5 train`, without MODEL_DIR",
      remedy="--gin_file=recipes/pretrain_demo.gin",
    )
