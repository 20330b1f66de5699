# SPDX-License-Identifier: Apache-2.0
"""The mode `study`: an experiment of the paper as runs of `train`, and the table that they make.

A study goes on where it was stopped, and takes up more seeds: see `study_runs`. `study sweep` is one of
settings of the user's own.
"""

from __future__ import annotations

from collections.abc import Sequence

from switch_t5.checkpoint.run_lock import RunLock
from switch_t5.cli import study_probe, study_report, study_sweep
from switch_t5.cli.flags import CommandLine
from switch_t5.cli.study_runs import StudyRuns
from switch_t5.errors import ConfigError, suggest
from switch_t5.reports import intervals
from switch_t5.storage.location import on_disk
from switch_t5.studies.balance import BALANCE
from switch_t5.studies.capacity import CAPACITY
from switch_t5.studies.curves import Run
from switch_t5.studies.distill import DISTILL
from switch_t5.studies.exploration import EXPLORATION
from switch_t5.studies.family import SIZES, Family, outcome
from switch_t5.studies.init import INIT
from switch_t5.studies.precision import PRECISION
from switch_t5.studies.routers import ROUTERS
from switch_t5.studies.scaling import SCALING

FAMILIES: dict[str, Family] = {
  family.name: family
  for family in (SCALING, CAPACITY, ROUTERS, PRECISION, INIT, EXPLORATION, BALANCE, DISTILL)
}
SWEEP = "sweep"
STUDIES = (*FAMILIES, SWEEP)
USAGE = f"switch_t5 study {'|'.join(STUDIES)} [--size={'|'.join(SIZES)}] [--seeds=N] [--to=FOLDER]"


def run(command_line: CommandLine) -> None:
  """Runs a study, or what is left of it, and prints and writes its table."""
  name = _check(command_line)
  if name == SWEEP:
    study_sweep.run(command_line)
    return
  if command_line.vary or command_line.random:
    raise ConfigError(
      "The studies of the paper vary nothing else.",
      value=", ".join(command_line.vary) or f"--random={command_line.random}",
      remedy=f"switch_t5 study {SWEEP}",
    )
  family, size = FAMILIES[name], command_line.size or "laptop"
  _check_own(command_line, family)
  folder = on_disk(command_line.to or f"studies/{name}_{size}", "The folder of a study")
  study = StudyRuns(command_line, family, size, folder, command_line.seeds or family.seeds[size])
  if command_line.dry_run:
    print(study.commands())
    return
  intervals.check_installed()
  with RunLock(folder):
    study.claim()
    study.train(study.plan, study.steps)
    study.check_same_data()
    probed = study_probe.PROBES[name](study) if name in study_probe.PROBES else {}
    runs = {arm.name: _runs(study, arm.name, probed) for arm in family.arms}
    title = f"{family.title}, {size}: {study.steps:,} steps"
    about = {"study": name, "size": size, "steps": study.steps}
    print(f"\n{study_report.write(study, outcome(family, title, runs), about)}")


def _runs(study: StudyRuns, arm: str, probed: dict[str, dict[str, float]]) -> list[Run]:
  """Returns the runs of an arm in the order of seeds, with what was measured beside them."""
  found = [study.read(planned, study.steps) for planned in study.plan if planned.arm.name == arm]
  return [run._replace(facts={**run.facts, **probed.get(arm, {})}) for run in found]


def _check(command_line: CommandLine) -> str:
  """Returns the name of the study."""
  arguments: Sequence[str] = command_line.arguments[1:]
  if len(arguments) != 1 or arguments[0] not in STUDIES:
    raise ConfigError(
      "The mode study takes the name of a study.",
      value=" ".join(arguments) or None,
      rule=USAGE,
      remedy=suggest(arguments[0], STUDIES) if arguments else None,
    )
  size = command_line.size or "laptop"
  if size not in SIZES:
    raise ConfigError(
      "--size is not a size.",
      value=size,
      rule=f"one of {', '.join(SIZES)}",
      remedy=suggest(size, SIZES),
    )
  if command_line.coordinator_address is not None:
    raise ConfigError(
      "A study runs in one process.",
      value=f"--coordinator_address={command_line.coordinator_address}",
      remedy="--dry_run prints its runs as commands; train them as your cluster does, then call it again",
    )
  return arguments[0]


def _check_own(command_line: CommandLine, family: Family) -> None:
  for text in command_line.gin_bindings:
    if text.partition("=")[0].strip() in family.own:
      own = ", ".join(sorted(family.own))
      raise ConfigError("The study sets this macro itself.", value=text, rule=f"so for {own}")
