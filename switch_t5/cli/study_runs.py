# SPDX-License-Identifier: Apache-2.0
"""The runs of a study in its folder: what each is told, how long all will take, and what they measured.

Each run is a MODEL_DIR of the study's folder and goes on where it was stopped; one that is done is not
trained again, wherever it was trained. One that diverged is done too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import shlex
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from switch_t5.checkpoint.commit import write_text_durably
from switch_t5.checkpoint.listing import list_steps
from switch_t5.cli import evaluate, gin_setup, run_record, train
from switch_t5.cli.configurables import CONFIGURABLES
from switch_t5.cli.configuration import Configuration
from switch_t5.cli.flags import CommandLine
from switch_t5.cli.train_config import TrainConfig
from switch_t5.errors import ConfigError, DataError, DivergedError
from switch_t5.metrics.writer import METRICS_FILE, read_metrics
from switch_t5.model.cost import forward_flops_per_sequence, parameter_count
from switch_t5.studies.curves import Run, quality
from switch_t5.studies.family import Arm, Family

SETTINGS, DIVERGED = "study.json", "diverged.txt"
TIMED_STEPS = 8


class Planned(NamedTuple):
  """A run of the study."""

  arm: Arm
  seed: int

  @property
  def name(self) -> str:
    """Of its folder, and of its file in logs/."""
    return f"{self.arm.name}_seed{self.seed}"


class Pace(NamedTuple):
  """How long runs take here.

  Attributes:
    step: seconds of a step.
    around: of what surrounds the steps, programs that are compiled left out.
    compilation: of the step's program, the first time.
  """

  step: float
  around: float
  compilation: float = 0.0


class StudyRuns:
  """The runs of a study.

  Args:
    command_line: its gin files and bindings hold for every run.
    family: the study.
    size: of its gin files.
    folder: of the study.
    seeds: how many, from 0.

  Attributes:
    plan: the runs, in the order in which they are trained.
    configs: what `train` is told, by arm; not of those that need another arm's run.
    settings: the whole configuration of each arm, as gin text.

  Raises:
    ConfigError: if a run's configuration is not valid.
  """

  def __init__(
    self, command_line: CommandLine, family: Family, size: str, folder: Path, seeds: int
  ):
    self._command_line, self._size = command_line, size
    self.family, self.folder, self.seeds = family, folder, seeds
    self.plan = [Planned(arm, seed) for seed in range(seeds) for arm in family.arms]
    everywhere = {arm.name: self._load(arm) for arm in family.arms}
    self.settings = {name: c.operative_config("train") for name, c in everywhere.items()}
    self.configs: dict[str, TrainConfig] = {
      arm.name: everywhere[arm.name].call("train") for arm in family.arms if not arm.paths
    }
    self.config = self.configs[family.base]

  @property
  def steps(self) -> int:
    """TRAIN_STEPS, the same in all arms."""
    return self.config.total_steps

  @functools.cached_property
  def facts(self) -> dict[str, dict[str, float]]:
    """Numbers that follow from the arms' configurations, see `facts_of`."""
    return {arm: facts_of(config) for arm, config in self.configs.items()}

  def path(self, planned: Planned) -> Path:
    """Returns the MODEL_DIR of a run."""
    return self.folder / planned.name

  def commands(self) -> str:
    """Returns the runs as commands, those that others need before them."""
    lines = [f"# {self.folder}: {len(self.plan)} runs; one that is done is not trained again."]
    for planned in self.plan:
      command = self.command(planned, self.folder)
      words = ["switch_t5", "train", *(f"--gin_file={name}" for name in command.gin_files)]
      for text in command.gin_bindings:
        name, _, value = map(str.strip, text.partition("="))
        words.append(f"--gin.{name}={value}")
      lines.append(shlex.join(words))
    return "\n".join(lines)

  def claim(self) -> None:
    """Writes down the settings; raises ConfigError if the folder is of a study with others."""
    path = self.folder / SETTINGS
    content = {"study": self.family.name, "settings": self.settings}
    if not path.exists():
      write_text_durably(path, json.dumps(content, indent=2) + "\n")
      return
    try:
      found = json.loads(path.read_text(encoding="utf-8"))
      study, before = str(found["study"]), dict[str, str](found["settings"])
    except (ValueError, KeyError, TypeError) as error:
      raise DataError("A study's settings cannot be read.", value=path) from error
    if study != self.family.name:
      raise _other_settings(f"{path}: {study}, not {self.family.name}")
    for name in self.settings | before:
      old, now = before.get(name, ""), self.settings.get(name, "")
      changed = run_record.changed_lines(old, now) or run_record.changed_lines(now, old)
      if changed:
        raise _other_settings(f"{path}, arm {name}: {changed[0]}")

  def train(self, plan: Sequence[Planned], steps: int) -> None:
    """Trains what is not done of a plan up to `steps`, after saying how long it will take."""
    left = [planned for planned in plan if not self.is_done(planned, steps)]
    topic = self.family.title.partition(" (")[0]
    print(
      f"Study of {topic[0].lower()}{topic[1:]}, {self._size}: {len(plan)} runs, {len(left)} to do; "
      f"{self.folder}"
    )
    paces = self._measure_paces() if left else {}
    compiled = set(paces)
    for index, planned in enumerate(left):
      minutes = self._seconds(paces, left[index:], steps, compiled) / 60
      print(
        f"{planned.arm.title}, seed {planned.seed} (about {minutes:.0f} minutes for what is left) ...",
        flush=True,
      )
      compiled.add(planned.arm.name)
      started = time.perf_counter()
      self._train(planned, steps)
      run = self.read(planned, steps)
      said = "diverged" if run.diverged else f"quality {quality(run):.4f}"
      print(f"  {said}, {time.perf_counter() - started:.0f} s", flush=True)

  def is_done(self, planned: Planned, steps: int) -> bool:
    """Whether a run has reached `steps` and was evaluated there, or has diverged."""
    path = self.path(planned)
    if (path / DIVERGED).exists():
      return True
    # It may have gone on since, and have deleted the checkpoint of that step.
    saved = max(list_steps(path / "checkpoints"), default=0) >= steps
    return saved and quality(self.read(planned, steps)) is not None

  def read(self, planned: Planned, steps: int) -> Run:
    """Returns what a run measured up to `steps`."""
    path, arm = self.path(planned), planned.arm.name
    metrics: dict[str, dict[int, float]] = {}
    for file in (path / METRICS_FILE, path / "eval" / METRICS_FILE):
      for row in read_metrics(file) if file.exists() else []:
        if row["step"] <= steps:
          for name, value in row.items():
            metrics.setdefault(name, {})[int(row["step"])] = value
    return Run(
      arm,
      planned.seed,
      steps,
      self.config.dataset.mixture_or_task_name,
      {name: sorted(points.items()) for name, points in metrics.items()},
      self.facts.get(arm, {}),
      _text(path / DIVERGED),
    )

  def check_same_data(self) -> None:
    """Raises DataError if the runs of a seed did not read the same rows in the same order."""
    for seed in range(self.seeds):
      seen: dict[str, str] = {}
      for planned in (planned for planned in self.plan if planned.seed == seed):
        data = self.start(planned)["data"]
        rows = {name: value for name, value in data.items() if name != "teacher"}
        seen.setdefault(json.dumps(rows, sort_keys=True), planned.name)
      if len(seen) > 1:
        raise DataError(
          "The runs of one seed did not read the same data.",
          value=f"{' and '.join(seen.values())} of {self.folder}",
          rule="their differences are those of the training, so the rows are the same",
          remedy="remove the folders of that seed: they are trained again",
        )

  def start(self, planned: Planned) -> dict[str, Any]:
    """Returns what the last start of a run was recorded with."""
    path = self.path(planned) / "run.json"
    starts: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["starts"]
    return starts[-1]

  def command(self, planned: Planned, folder: Path, *more: str) -> CommandLine:
    """Returns the command line that trains a run below a folder."""
    arm = planned.arm
    own: dict[str, object] = {"MODEL_DIR": json.dumps(str(folder / planned.name))}
    own["SEED"] = planned.seed
    for macro, other in arm.paths:
      of_other = folder / Planned(self.family.arm(other), planned.seed).name
      own[macro] = json.dumps(str(of_other))
    bindings = (*(f"{name} = {value}" for name, value in own.items()), *arm.bindings, *more)
    model = () if arm.model is None else (arm.model.replace("{size}", self._size),)
    return dataclasses.replace(
      self._command_line,
      arguments=("train",),
      gin_files=(*model, *arm.files, *self._command_line.gin_files),
      gin_bindings=(*self._command_line.gin_bindings, *bindings),
      to=None,
      started=time.monotonic(),
    )

  def command_up_to(self, planned: Planned, steps: int) -> CommandLine:
    """Returns the command line that trains a run up to `steps`."""
    del steps  # TRAIN_STEPS
    return self.command(planned, self.folder)

  def command_to_time(self, planned: Planned, folder: Path) -> CommandLine:
    """Returns the command line that trains a few steps below a folder."""
    short = (f"TRAIN_STEPS = {TIMED_STEPS}", f"LOG_PERIOD = {TIMED_STEPS // 2}")
    return self.command(planned, folder, *short)

  @contextlib.contextmanager
  def to_log(self, name: str) -> Iterator[None]:
    """Sends what a run says to its file, behind what it said before."""
    path = self.folder / "logs" / f"{name}.log"
    path.parent.mkdir(exist_ok=True)
    with (
      path.open("a", encoding="utf-8") as file,
      contextlib.redirect_stdout(file),
      contextlib.redirect_stderr(file),
    ):
      yield

  def _train(self, planned: Planned, steps: int) -> None:
    """Trains a run up to `steps`; one that diverges is noted and ends there."""
    command = self.command_up_to(planned, steps)
    with self.to_log(planned.name):
      try:
        train.run(command)
        if not self.is_done(
          planned, steps
        ):  # killed between its last checkpoint and the evaluation
          evaluate.run(dataclasses.replace(command, arguments=("eval",)))
      except DivergedError as error:
        said = str(error.value).partition("\n")[0]
        write_text_durably(self.path(planned) / DIVERGED, f"{error.what} {said}\n")
    jax.clear_caches()

  def _measure_paces(self) -> dict[str, Pace]:
    """Trains a few steps of each kind, in a folder that is removed, and says how long they take."""
    print("Timing a few steps of each kind ...", flush=True)
    folder, paces = self.folder / "timing", {}
    shutil.rmtree(folder, ignore_errors=True)
    dataset = self.config.dataset
    tokens = dataset.batch_size * (dataset.encoder_length + dataset.decoder_length)
    for arm in (arm for arm in self.family.arms if arm.timed_as is None):
      planned = Planned(arm, 0)
      started = time.perf_counter()
      with self.to_log(f"timing_{arm.name}"), contextlib.suppress(DivergedError):
        train.run(self.command_to_time(planned, folder))
      seconds = time.perf_counter() - started
      rows = read_metrics(folder / planned.name / METRICS_FILE)
      rates = [row["train/tokens_per_second"] for row in rows if "train/tokens_per_second" in row]
      step = tokens / rates[-1]  # not the first window: memory is touched for the first time
      compilation = max(row.get("goodput/compilation_seconds", 0.0) for row in rows)
      around = max(seconds - TIMED_STEPS * step - compilation, 0.0)
      paces[arm.name] = Pace(step, around, compilation)
      print(f"  {arm.title}: {step:.3f} s a step", flush=True)
    shutil.rmtree(folder)
    return paces

  def _seconds(
    self, paces: dict[str, Pace], left: Sequence[Planned], steps: int, compiled: set[str]
  ) -> float:
    """Returns how long runs will take from where they are; `compiled` are arms that have programs."""
    seconds, seen = 0.0, set(compiled)
    for planned in left:
      pace = paces[planned.arm.timed_as or planned.arm.name]
      done = max(list_steps(self.path(planned) / "checkpoints"), default=0)
      seconds += pace.step * max(steps - done, 0) + pace.around
      seconds += 0.0 if planned.arm.name in seen else pace.compilation
      seen.add(planned.arm.name)
    return seconds

  def _load(self, arm: Arm) -> Configuration:
    command = self.command(Planned(arm, 0), Path("study"))
    return gin_setup.load_command_line(command, CONFIGURABLES, "train")


def facts_of(config: TrainConfig) -> dict[str, float]:
  """Returns numbers that follow from a run's configuration.

  Its parameters; forward FLOPs of a sequence pair; num_experts, 0 of a dense model; tokens of a group
  of the encoder and the capacity factor of training, where there are some.
  """
  lengths = (config.dataset.encoder_length, config.dataset.decoder_length)
  model = config.model.with_lengths(lengths[0])
  found: dict[str, float] = {
    "parameters": parameter_count(model),
    "flops_per_sequence": forward_flops_per_sequence(model, *lengths),
    "num_experts": model.num_experts,
  }
  if model.num_experts and model.sequences_per_group:
    found["encoder_group"] = model.sequences_per_group * lengths[0]
    if model.train_capacity_factor is not None:
      found["capacity_factor"] = model.train_capacity_factor
  return found


def _other_settings(value: str) -> ConfigError:
  return ConfigError(
    "The folder is of a study with other settings.",
    value=value,
    rule="all runs of a study have the same settings, those that are done too",
    remedy="the study, the size and the bindings that it began with, or another --to",
  )


def _text(path: Path) -> str | None:
  return path.read_text(encoding="utf-8").strip() if path.exists() else None
