# SPDX-License-Identifier: Apache-2.0
"""The mode `study`: an experiment of the paper as runs of `train`, and the table that they make.

Each run is a MODEL_DIR of the study's folder and goes on where it was stopped; one that is done is not
trained again, wherever it was trained. So a study goes on too, and takes up more seeds.
"""

from __future__ import annotations

import contextlib
import dataclasses
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
from switch_t5.checkpoint.run_lock import RunLock
from switch_t5.cli import evaluate, gin_setup, run_record, train
from switch_t5.cli.configurables import CONFIGURABLES
from switch_t5.cli.configuration import Configuration
from switch_t5.cli.flags import CommandLine
from switch_t5.cli.train_config import TrainConfig
from switch_t5.errors import ConfigError, DataError, suggest
from switch_t5.metrics.writer import METRICS_FILE, read_metrics
from switch_t5.model.cost import parameter_count
from switch_t5.reports import intervals
from switch_t5.storage.location import on_disk
from switch_t5.studies import distill
from switch_t5.studies.distill import ARMS, DENSE, TEACHER, Arm

STUDIES = ("distill",)
SIZES = {"test": 2, "laptop": 3, "pod": 3}  # and their seeds
USAGE = "switch_t5 study distill [--size=test|laptop|pod] [--seeds=N] [--to=FOLDER]"
# What the study itself sets.
OWN = ("MODEL_DIR", "SEED", "TEACHER_PATH", "FRACTION_SOFT", "INITIAL_CHECKPOINT_PATH")
SETTINGS = "study.json"
_TIMED_STEPS = 8
_TIMED = ("dense", "teacher", "mixed_from_teacher")  # steps of all kinds


class Planned(NamedTuple):
  """A run of the study."""

  arm: Arm
  seed: int

  @property
  def name(self) -> str:
    """Of its folder, and of its file in logs/."""
    return f"{self.arm.name}_seed{self.seed}"


class Pace(NamedTuple):
  """How long runs take here: seconds of a step, and of what surrounds the steps."""

  step: float
  around: float


def run(command_line: CommandLine) -> None:
  """Runs a study, or what is left of it, and prints and writes its table."""
  size = _check(command_line)
  seeds = command_line.seeds or SIZES[size]
  folder = on_disk(command_line.to or f"studies/distill_{size}", "The folder of a study")
  study = Study(command_line, size, folder, seeds)
  if command_line.dry_run:
    print(study.commands())
    return
  intervals.check_installed()
  with RunLock(folder):
    study.claim()
    study.train()
    print(f"\n{study.write_report()}\n\nWritten: {folder}/distill.md, distill.json, distill.png")


class Study:
  """The runs of a study in its folder.

  Args:
    command_line: its gin files and bindings hold for every run.
    size: one of `SIZES`.
    folder: of the study.
    seeds: how many, from 0.

  Raises:
    ConfigError: if a run's configuration is not valid.
  """

  def __init__(self, command_line: CommandLine, size: str, folder: Path, seeds: int):
    self._command_line, self._size, self._folder = command_line, size, folder
    self._seeds = seeds
    self._plan = [Planned(arm, seed) for seed in range(seeds) for arm in ARMS]
    everywhere = {arm: self._load(arm, 0, Path("study")) for arm in ARMS}
    self._settings = {a.name: loaded.operative_config("train") for a, loaded in everywhere.items()}
    configs: dict[str, TrainConfig] = {
      arm.name: loaded.call("train") for arm, loaded in everywhere.items() if not arm.needs_teacher
    }
    self._config = configs[DENSE]
    self._parameters = {name: _parameters(config) for name, config in configs.items()}

  def commands(self) -> str:
    """Returns the runs as commands, the teacher of a seed before those who need it."""
    lines = [f"# {self._folder}: {len(self._plan)} runs; one that is done is not trained again."]
    for planned in self._plan:
      command = self._command(planned.arm, planned.seed, self._folder)
      words = ["switch_t5", "train", *(f"--gin_file={name}" for name in command.gin_files)]
      for text in command.gin_bindings:
        name, _, value = map(str.strip, text.partition("="))
        words.append(f"--gin.{name}={value}")
      lines.append(shlex.join(words))
    return "\n".join(lines)

  def claim(self) -> None:
    """Writes down the settings; raises ConfigError if the folder is of a study with others."""
    path = self._folder / SETTINGS
    content = {"study": "distill", "settings": self._settings}
    if not path.exists():
      write_text_durably(path, json.dumps(content, indent=2) + "\n")
      return
    try:
      before: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))["settings"]
    except (ValueError, KeyError) as error:
      raise DataError("A study's settings cannot be read.", value=path) from error
    for name, now in self._settings.items():
      changed = run_record.changed_lines(before.get(name, ""), now)
      changed = changed or run_record.changed_lines(now, before.get(name, ""))
      if changed:
        raise ConfigError(
          "The folder is of a study with other settings.",
          value=f"{path}, arm {name}: {changed[0]}",
          rule="all runs of a study have the same settings, those that are done too",
          remedy="the size and the bindings that it began with, or another --to",
        )

  def train(self) -> None:
    """Trains what is not done, after saying how long it will take."""
    left = [planned for planned in self._plan if self._quality(self._path(planned)) is None]
    print(
      f"Study of distillation, {self._size}: {len(self._plan)} runs, {len(left)} to do; {self._folder}"
    )
    paces = self._measure_paces() if left else {}
    for index, planned in enumerate(left):
      minutes = sum(self._seconds(paces, rest) for rest in left[index:]) / 60
      print(
        f"{planned.arm.title}, seed {planned.seed} (about {minutes:.0f} minutes for what is left) ...",
        flush=True,
      )
      started = time.perf_counter()
      quality = self._train(planned)
      print(f"  quality {quality:.4f}, {time.perf_counter() - started:.0f} s", flush=True)
    self._check_same_data()

  def write_report(self) -> str:
    """Writes the table in three forms, and returns it as Markdown."""
    qualities: dict[str, list[float]] = {arm.name: [] for arm in ARMS}
    for planned in self._plan:
      quality = self._quality(self._path(planned))
      assert quality is not None  # all are done
      qualities[planned.arm.name].append(quality)
    table = distill.rows(qualities)
    page = distill.report(table, self._parameters, self._seeds)
    content: dict[str, Any] = {
      "study": "distill",
      "size": self._size,
      "steps": self._config.total_steps,
      "qualities": qualities,
      **distill.as_json(table, self._parameters),
      "start": self._starts(self._plan[0])[-1],
    }
    title = f"# Distillation, {self._size}: {self._config.total_steps:,} steps"
    write_text_durably(self._folder / "distill.md", f"{title}\n\n{page}\n")
    write_text_durably(self._folder / "distill.json", json.dumps(content, indent=2) + "\n")
    dense = qualities[DENSE]
    entries = []
    for row in table:
      gains = [one - other for one, other in zip(qualities[row.arm.name], dense, strict=True)]
      mean, low, high = row.gain or (0.0, None, None)
      entries.append(intervals.Entry(row.arm.title, gains, mean, low, high))
    axis = "gain over the dense student of the same seed, nats per target token"
    intervals.draw(self._folder / "distill.png", entries, title.removeprefix("# "), axis)
    return page

  def _train(self, planned: Planned) -> float:
    """Trains a run to its end and returns its quality."""
    path = self._path(planned)
    command = self._command(planned.arm, planned.seed, self._folder)
    with self._to_log(planned.name):
      train.run(command)
      if (
        self._quality(path) is None
      ):  # it was killed between its last checkpoint and the evaluation
        evaluate.run(dataclasses.replace(command, arguments=("eval",)))
    jax.clear_caches()
    quality = self._quality(path)
    assert quality is not None
    return quality

  def _quality(self, path: Path) -> float | None:
    """Returns the negative log perplexity at the end of a run; None if it is not done."""
    steps = self._config.total_steps
    name = f"eval/{self._config.dataset.mixture_or_task_name}/cross_entropy"
    if steps not in list_steps(path / "checkpoints"):
      return None
    for file in (path / METRICS_FILE, path / "eval" / METRICS_FILE):
      for row in read_metrics(file) if file.exists() else []:
        if row["step"] == steps and name in row:
          return -row[name]
    return None

  def _measure_paces(self) -> dict[str, Pace]:
    """Trains a few steps of each kind, in a folder that is removed, and says how long they take."""
    print("Timing a few steps of each kind ...", flush=True)
    folder, paces = self._folder / "timing", {}
    shutil.rmtree(folder, ignore_errors=True)
    dataset = self._config.dataset
    tokens = dataset.batch_size * (dataset.encoder_length + dataset.decoder_length)
    short = (f"TRAIN_STEPS = {_TIMED_STEPS}", f"LOG_PERIOD = {_TIMED_STEPS // 2}")
    for arm in (arm for arm in ARMS if arm.name in _TIMED):
      command = self._command(arm, 0, folder, *short)
      started = time.perf_counter()
      with self._to_log(f"timing_{arm.name}"):
        train.run(command)
      seconds = time.perf_counter() - started
      rows = read_metrics(folder / Planned(arm, 0).name / METRICS_FILE)
      rates = [row["train/tokens_per_second"] for row in rows if "train/tokens_per_second" in row]
      step = tokens / rates[-1]  # not the first window: memory is touched for the first time
      paces[arm.name] = Pace(step, max(seconds - _TIMED_STEPS * step, 0.0))
      print(f"  {arm.title}: {step:.3f} s a step", flush=True)
    shutil.rmtree(folder)
    return paces

  def _seconds(self, paces: dict[str, Pace], planned: Planned) -> float:
    """Returns how long a run will take from where it is."""
    teaches = planned.arm.fraction_soft is not None
    kind = _TIMED[2] if teaches else TEACHER if planned.arm.name == TEACHER else DENSE
    steps = list_steps(self._path(planned) / "checkpoints")
    left = self._config.total_steps - max(steps, default=0)
    return paces[kind].step * left + paces[kind].around

  def _check_same_data(self) -> None:
    """Raises DataError if the runs of a seed did not read the same rows in the same order."""
    for seed in range(self._seeds):
      seen: dict[str, str] = {}
      for planned in (planned for planned in self._plan if planned.seed == seed):
        data = self._starts(planned)[-1]["data"]
        rows = {name: value for name, value in data.items() if name != "teacher"}
        seen.setdefault(json.dumps(rows, sort_keys=True), planned.name)
      if len(seen) > 1:
        raise DataError(
          "The runs of one seed did not read the same data.",
          value=f"{' and '.join(seen.values())} of {self._folder}",
          rule="their differences are those of the training, so the rows are the same",
          remedy="remove the folders of that seed: they are trained again",
        )

  def _starts(self, planned: Planned) -> list[dict[str, Any]]:
    path = self._path(planned) / "run.json"
    starts: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["starts"]
    return starts

  def _path(self, planned: Planned) -> Path:
    return self._folder / planned.name

  def _load(self, arm: Arm, seed: int, folder: Path) -> Configuration:
    command = self._command(arm, seed, folder)
    return gin_setup.load_command_line(command, CONFIGURABLES, "train")

  def _command(self, arm: Arm, seed: int, folder: Path, *more: str) -> CommandLine:
    """Returns the command line that trains a run."""
    teacher = Planned(next(a for a in ARMS if a.name == TEACHER), seed)
    teacher_path = json.dumps(str(folder / teacher.name))
    model = f"studies/distill_{self._size}{'_teacher' if arm.name == TEACHER else ''}.gin"
    files, own = (
      [model],
      {"MODEL_DIR": json.dumps(str(folder / Planned(arm, seed).name)), "SEED": seed},
    )
    if arm.fraction_soft is not None:
      files.append("runs/distill.gin")
      own |= {"TEACHER_PATH": teacher_path, "FRACTION_SOFT": arm.fraction_soft}
    if arm.needs_teacher:
      start = teacher_path if arm.starts_from_teacher else None
      own |= {"INITIAL_CHECKPOINT_PATH": start, "InitialCheckpoint.as_teacher": '"fresh"'}
    bindings = tuple(f"{name} = {value}" for name, value in own.items())
    return dataclasses.replace(
      self._command_line,
      arguments=("train",),
      gin_files=(*files, *self._command_line.gin_files),
      gin_bindings=(*self._command_line.gin_bindings, *bindings, *more),
      to=None,
    )

  @contextlib.contextmanager
  def _to_log(self, name: str) -> Iterator[None]:
    """Sends what a run says to its file, behind what it said before."""
    path = self._folder / "logs" / f"{name}.log"
    path.parent.mkdir(exist_ok=True)
    with (
      path.open("a", encoding="utf-8") as file,
      contextlib.redirect_stdout(file),
      contextlib.redirect_stderr(file),
    ):
      yield


def _check(command_line: CommandLine) -> str:
  """Returns the size."""
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
  for text in command_line.gin_bindings:
    name = text.partition("=")[0].strip()
    if name in OWN:
      raise ConfigError(
        "The study sets this macro itself.", value=text, rule=f"so for {', '.join(OWN)}"
      )
  return size


def _parameters(config: TrainConfig) -> int:
  return parameter_count(config.model.with_lengths(config.dataset.encoder_length))
