# SPDX-License-Identifier: Apache-2.0
"""The mode `eval`: one checkpoint or several on the validation split of their task, and on tasks."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from switch_t5.checkpoint.best import read_best
from switch_t5.checkpoint.initial import InitialParameters
from switch_t5.checkpoint.listing import list_steps
from switch_t5.checkpoint.manager import CheckpointManager
from switch_t5.cli import distributed, gin_setup
from switch_t5.cli.configurables import CONFIGURABLES
from switch_t5.cli.flags import CommandLine
from switch_t5.cli.run_data import open_data
from switch_t5.cli.session import Session, open_session
from switch_t5.cli.task_evaluation import TaskEvaluator, table, write_answers
from switch_t5.cli.train_config import ALL, BEST, EvalConfig, TrainConfig
from switch_t5.errors import CheckpointError, ConfigError
from switch_t5.interop.initial import open_parameters
from switch_t5.metrics.stored import StoredMetricsWriter, open_writer
from switch_t5.metrics.writer import MetricsWriter
from switch_t5.storage import files
from switch_t5.storage.location import Location, location
from switch_t5.types import PyTree

_EVENTS = "eval"  # their folder: those of training are its own
_LEAST_WIDTH = 80


class Found(NamedTuple):
  """A checkpoint to evaluate.

  Attributes:
    name: for files, such as `step_200`.
    shown: for the terminal.
    step: of training; None if it is not known.
    params: of the model.
  """

  name: str
  shown: str
  step: int | None
  params: PyTree


def run(command_line: CommandLine) -> None:
  """Prints the metrics of a checkpoint, with --json as one object; of several a table, or a list."""
  configuration = gin_setup.load_command_line(command_line, CONFIGURABLES)
  config: EvalConfig = configuration.call("evaluate")
  train: TrainConfig = configuration.call("train")
  distributed.start(command_line, configuration)
  session = open_session(train)
  if config.held_out:
    train.dataset.check_task()
  directory = location(train.model_dir) / "checkpoints"
  steps = [] if config.checkpoint_paths else _steps(config, directory)  # before data are opened
  with session.on_mesh():
    evaluation = Evaluation(config, session, speaks=not command_line.json)
    found = of_paths(config, session) if config.checkpoint_paths else of_steps(steps, session)
    rows = [evaluation.measure(checkpoint) for checkpoint in found]
    evaluation.close()
  if not rows:
    raise _nothing_there(directory)
  if jax.process_index() != 0:
    return
  if command_line.json:
    several = not isinstance(config.checkpoint_step, int | None) and config.checkpoint_step != BEST
    print(json.dumps(rows if several or len(rows) > 1 else rows[0]))
  elif len(rows) > 1:
    print(metrics_table(rows))


def of_paths(config: EvalConfig, session: Session) -> Iterator[Found]:
  """Yields the checkpoints at paths, one in memory at a time.

  Raises:
    CheckpointError: if one is not there, is damaged or is of another model.
  """
  paths = config.checkpoint_paths
  like = session.abstract.params
  for path in [paths] if isinstance(paths, str) else paths:
    source = open_parameters(path, session.model)
    parameters = InitialParameters(source, like)
    name = "_".join(source.path.parts[-3:])
    yield Found(name, f"{source.path} ({source.format})", None, parameters.load(like))


def of_steps(steps: Sequence[int | None], session: Session) -> Iterator[Found]:
  """Yields the checkpoints of MODEL_DIR, one in memory at a time; damaged ones of many are passed over.

  Raises:
    CheckpointError: if the only one that is asked for is not there or is damaged.
  """
  directory = location(session.config.model_dir) / "checkpoints"
  for step in steps:
    try:
      restored = CheckpointManager(directory).restore(
        {"params": session.abstract.params}, step, partial=True
      )
    except CheckpointError as error:
      if len(steps) == 1:
        raise
      print(f"Checkpoint {step} is passed over: {error}", file=sys.stderr)
      continue
    if restored is None:
      raise _nothing_there(directory)
    shown = f"Checkpoint {restored.step} of {session.config.model_dir}"
    yield Found(f"step_{restored.step}", shown, restored.step, restored.state["params"])


def _steps(config: EvalConfig, directory: Location) -> Sequence[int | None]:
  """Returns the steps that are asked for; None is the newest good one."""
  asked, steps = config.checkpoint_step, list_steps(directory)
  if not steps:
    raise _nothing_there(directory)
  if asked == ALL:
    return steps
  if asked == BEST:
    best = read_best(directory.parent)
    if best is None:
      raise CheckpointError(
        "No checkpoint is known as the best.",
        value=directory.parent / "best.json",
        rule="a run with BEST_METRIC writes it",
        remedy="evaluate.checkpoint_step = 'all' measures each of them",
      )
    return [best.step]
  wanted = list(asked) if isinstance(asked, tuple | list) else [asked]
  if missing := [step for step in wanted if step is not None and step not in steps]:
    raise CheckpointError(
      "There is no checkpoint of this step.",
      value=f"step {', '.join(map(str, missing))} in {directory}",
      rule=f"the steps that were saved: {steps}",
    )
  return wanted  # type: ignore[return-value]


def _nothing_there(directory: Location) -> CheckpointError:
  return CheckpointError(
    "There is no checkpoint to evaluate.",
    value=directory,
    remedy="set MODEL_DIR to the folder of a trained model",
  )


class Evaluation:
  """What is measured of each checkpoint, and where it is said and written.

  Args:
    config: what.
    session: of the model.
    speaks: whether results are printed.
  """

  def __init__(self, config: EvalConfig, session: Session, *, speaks: bool):
    self._session, self._speaks = session, speaks and jax.process_index() == 0
    train = session.config
    self._directory = location(config.output_dir or train.model_dir)
    self._data = open_data(train.dataset, session.model) if config.held_out else None
    self._eval_step = session.build_eval_step()
    self._tasks: TaskEvaluator | None = None
    if train.task_evaluation is not None:
      vocabulary = self._data.vocabulary if self._data else None
      self._tasks = TaskEvaluator(train.task_evaluation, train.dataset, session, vocabulary)
      self._say(self._tasks.describe())
    if self._data is None and self._tasks is None:
      raise ConfigError(
        "There is nothing to evaluate.",
        value="evaluate.held_out = False, train.task_evaluation = None",
        rule="the cross-entropy of the validation split, or tasks, or both",
      )
    self._writer: MetricsWriter | StoredMetricsWriter | None = None

  def measure(self, found: Found) -> dict[str, Any]:
    """Returns the metrics of a checkpoint by public name; says and writes them."""
    metrics: dict[str, float] = {}
    if self._data is not None:
      metrics |= self._session.held_out_metrics(self._eval_step, found.params, self._data)
    self._say(found.shown)
    for name, value in metrics.items():
      self._say(f"  {name:<60} {value:.4f}")
    if self._tasks is not None:
      evaluated = self._tasks.evaluate(found.params, lambda: False)
      assert evaluated is not None  # nothing stops it
      metrics |= evaluated.metrics
      self._say(table(evaluated))
      write_answers(self._directory, evaluated, found.name)
    if found.step is not None:
      self._write(found.step, metrics)
      return {"step": found.step} | metrics
    return {"checkpoint": found.shown} | metrics

  def close(self) -> None:
    """Closes the files."""
    if self._writer is not None:
      self._writer.close()

  def _write(self, step: int, metrics: dict[str, float]) -> None:
    if jax.process_index() != 0:
      return
    if self._writer is None:
      folder = self._directory / _EVENTS
      try:
        files.make_directory(folder)
        self._writer = open_writer(folder)
      except OSError as error:
        raise ConfigError(
          "The results cannot be written.",
          value=f"{folder}: {error.strerror}",
          rule="evaluate.output_dir, or else MODEL_DIR, is a folder that can be written to",
          remedy="evaluate.output_dir = 'results'",
        ) from error
    self._writer.write(step, metrics)

  def _say(self, text: str) -> None:
    if self._speaks:
      print(text, flush=True)


def metrics_table(rows: Sequence[Mapping[str, Any]]) -> str:
  """Returns tables with a row for each checkpoint and as many metrics as fit beside each other."""
  key = next(iter(rows[0]))
  shown = {str(row[key]): row for row in rows}
  first = max(map(len, (key, *shown)))
  columns = [name for name in rows[0] if name != key]
  width = max(_LEAST_WIDTH, shutil.get_terminal_size().columns)
  blocks, block, used = [], list[str](), first
  for name in columns:
    if block and used + len(_short(name)) + 2 > width:
      blocks.append(block)
      block, used = [], first
    block.append(name)
    used += max(len(_short(name)), 8) + 2
  blocks.append(block)
  lines: list[str] = []
  for block in blocks:
    widths = [max(len(_short(name)), 8) for name in block]
    heads = [f"{_short(name):>{w}}" for name, w in zip(block, widths, strict=True)]
    lines += ["", "  ".join([f"{key:<{first}}", *heads])]
    for label, row in shown.items():
      cells = [f"{row[name]:>{w}.4f}" for name, w in zip(block, widths, strict=True)]
      lines.append("  ".join([f"{label:<{first}}", *cells]))
  return "\n".join(lines)


def _short(name: str) -> str:
  return name.removeprefix("eval/")
