# SPDX-License-Identifier: Apache-2.0
"""What `switch_t5 train` and `switch_t5 eval` are told."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax

from switch_t5.cli.dataset import DatasetConfig
from switch_t5.cli.distillation_config import Distillation, in_range
from switch_t5.data import documents
from switch_t5.decoding.config import DecodingConfig
from switch_t5.errors import ConfigError, suggest
from switch_t5.interop.student import AS_TEACHER
from switch_t5.losses.objective import LossConfig
from switch_t5.metrics.alarms import AlarmConfig
from switch_t5.metrics.wandb_sink import check_installed
from switch_t5.model.config import ModelConfig
from switch_t5.model.definition import ModelDefinition
from switch_t5.optim.adafactor import adafactor, num_batch_axes
from switch_t5.sharding.mesh import MeshShape
from switch_t5.sharding.rules import PARAMETER_RULES
from switch_t5.training.bad_steps import BadSteps
from switch_t5.training.trained import ALL, TRAINED

BEST = "best"  # of the checkpoints; ALL is also all of them
_COUNT = "a whole number, at least"
# What the run files call these parameters.
_MACROS = {
  "model_dir": "MODEL_DIR",
  "total_steps": "TRAIN_STEPS",
  "num_microbatches": "NUM_MICROBATCHES",
  "checkpoint_period": "CHECKPOINT_PERIOD",
  "eval_period": "EVAL_PERIOD",
  "best_metric": "BEST_METRIC",
  "log_period": "LOG_PERIOD",
  "seed": "SEED",
}


@dataclasses.dataclass(frozen=True)
class InitialCheckpoint:
  """Parameters of another run that a new run starts from; steps and optimizer begin anew, or go on.

  A run that goes on with its own checkpoint does not look at it.

  Attributes:
    path: INITIAL_CHECKPOINT_PATH: one checkpoint, `.../checkpoint_<step>`; None: new parameters.
    assignment_map: pairs of a regular expression that matches a parameter's whole name, and its name
      in the checkpoint (with groups as \\1) or None to draw it anew. The first match counts; other
      parameters come by their own name.
    restore_optimizer: whether the optimizer's state and the step are taken too, so that TRAIN_STEPS
      counts what is past; from a checkpoint of ours, or of `convert import`. The data begin at their
      first row.
    as_teacher: the checkpoint is a teacher's, of any format: the student takes what both have by the
      same name and shape, layer by layer, and a feed-forward layer in the place of a sparse one is
      "fresh", as drawn; the "mean" of the experts; "most_used", the expert that most tokens choose; or
      "load_mean", the mean by how many do, over the first 16 batches. None: it is no teacher's.
  """

  path: str | None = None
  assignment_map: tuple[tuple[str, str | None], ...] = ()
  restore_optimizer: bool = False
  as_teacher: str | None = None

  def __post_init__(self):
    if self.as_teacher is not None:
      self._check_as_teacher()
    if self.restore_optimizer and (self.path is None or self.assignment_map):
      raise ConfigError(
        "InitialCheckpoint.restore_optimizer is not valid.",
        value=f"path = {self.path!r}, assignment_map = {self.assignment_map!r}",
        rule="all of one checkpoint's state is taken, each array by its own name",
        remedy="set INITIAL_CHECKPOINT_PATH and no assignment_map, or leave restore_optimizer out",
      )

  def _check_as_teacher(self):
    if self.as_teacher not in AS_TEACHER:
      raise ConfigError(
        "InitialCheckpoint.as_teacher is not valid.",
        value=repr(self.as_teacher),
        rule=f"one of {', '.join(map(repr, AS_TEACHER))}, or None",
        remedy=suggest(str(self.as_teacher), AS_TEACHER),
      )
    if self.restore_optimizer or self.assignment_map:
      raise ConfigError(
        "InitialCheckpoint.as_teacher is not valid.",
        value=f"as_teacher = {self.as_teacher!r}, restore_optimizer = {self.restore_optimizer}, "
        f"assignment_map = {self.assignment_map!r}",
        rule="a student takes parameters alone, each by its own name",
        remedy="leave restore_optimizer and assignment_map out, or as_teacher",
      )


@dataclasses.dataclass(frozen=True)
class TaskEvaluation:
  """Answers the examples of tasks, and scores the answers by the tasks' own metrics.

  Attributes:
    mixture_or_task_name: of what is evaluated, each of its tasks with the split and metrics; None:
      what the run reads.
    split: which examples. `test` is answered also where nothing can be scored.
    max_examples: of each task, the first ones; None: all of them.
    batch_size: examples that are answered at once; None: BATCH_SIZE.
    decoding: a DecodingConfig; None: greedy, up to the length of the feature targets.
  """

  mixture_or_task_name: str | None = None
  split: str = documents.VALIDATION
  max_examples: int | None = None
  batch_size: int | None = None
  decoding: DecodingConfig | None = None

  def __post_init__(self):
    for name in ("max_examples", "batch_size"):
      value = getattr(self, name)
      if value is not None and (type(value) is not int or value < 1):
        raise ConfigError(
          f"TaskEvaluation.{name} is not valid.",
          value=repr(value),
          rule="a whole number, at least 1, or None",
        )
    if not isinstance(self.decoding, DecodingConfig | None):
      raise ConfigError(
        "TaskEvaluation.decoding is not valid.",
        value=repr(self.decoding),
        rule="@DecodingConfig(), or None",
      )


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """Trains a model, or goes on with one that was stopped.

  Attributes:
    model_dir: MODEL_DIR: checkpoints, metrics and the configuration go there; what is found there is
      gone on with.
    model: a ModelConfig.
    dataset: a DatasetConfig.
    total_steps: TRAIN_STEPS, those of a resumed run's past included.
    learning_rate: a schedule, as learning_rate_schedule() returns it.
    optimizer: a function such as adafactor.
    loss: a LossConfig.
    distillation: a Distillation; None: the targets alone are learnt from.
    trained: "all" parameters; "experts" alone, or "dense": all but those of experts. What is not
      trained stays as it is.
    mesh_shape: MESH_SHAPE, devices along (data, expert, model).
    parameter_sharding: "replicated", or "fsdp": parameters, their gradients and the optimizer's state
      are also split over data, along d_model, and gathered layer by layer where they are used.
    num_microbatches: NUM_MICROBATCHES: parts of a batch whose gradients are accumulated.
    checkpoint_period: CHECKPOINT_PERIOD, in steps.
    checkpoints_kept: the newest checkpoints that are not deleted.
    eval_period: EVAL_PERIOD, in steps.
    eval_steps: batches of an evaluation; None: the whole validation split.
    task_evaluation: a TaskEvaluation, whose tasks are answered and scored at each evaluation; None:
      none.
    best_metric: BEST_METRIC: the checkpoint with its best value is kept beside the newest ones, and
      named in MODEL_DIR/best.json; for instance 'eval/super_glue/average'. None: none.
    best_is_larger: whether its larger values are better; None: they are, unless it is a loss or a
      cross-entropy.
    log_period: LOG_PERIOD, in steps.
    hang_seconds: without a sign of life, after which a hang is reported with every thread's stack, also
      in MODEL_DIR/hangs; six times as long for start-up, compilation, checkpoints and evaluation. None:
      never.
    hang_exit: whether a process that goes on hanging is ended with exit code 76, to be started again;
      None: in a run of several processes.
    bad_steps: a BadSteps: what is done about steps whose loss or gradients are no numbers.
    alarms: an AlarmConfig: when something is said to go wrong, and what to change; None: never.
    seed: SEED of initialisation, dropout and jitter.
    initial_checkpoint: an InitialCheckpoint: what a new run's parameters start from.
    wandb_project: a project of Weights & Biases that gets the metrics too; None: none.
    show_samples: held-out sentences whose masked spans are filled and shown at the end.
  """

  model_dir: str
  model: ModelConfig
  dataset: DatasetConfig
  total_steps: int
  learning_rate: optax.Schedule
  optimizer: Callable[..., optax.GradientTransformation] = adafactor
  loss: LossConfig = LossConfig()  # noqa: RUF009 - frozen
  distillation: Distillation | None = None
  trained: str = ALL
  mesh_shape: tuple[int, int, int] = (1, 1, 1)
  parameter_sharding: str = "replicated"
  num_microbatches: int = 1
  checkpoint_period: int = 1000
  checkpoints_kept: int = 3
  eval_period: int = 1000
  eval_steps: int | None = None
  task_evaluation: TaskEvaluation | None = None
  best_metric: str | None = None
  best_is_larger: bool | None = None
  log_period: int = 100
  hang_seconds: float | None = 600.0
  hang_exit: bool | None = None
  bad_steps: BadSteps = BadSteps()  # noqa: RUF009 - frozen
  alarms: AlarmConfig | None = AlarmConfig()  # noqa: RUF009 - frozen
  seed: int = 0
  initial_checkpoint: InitialCheckpoint = InitialCheckpoint()
  wandb_project: str | None = None
  show_samples: int = 0

  def __post_init__(self):
    named = isinstance(self.model_dir, str) and self.model_dir.strip()
    _check(bool(named), "model_dir", self.model_dir, "a path in quotes: \"'runs/mine'\"")
    _check_type("model", self.model, ModelConfig, "@ModelConfig()")
    _check_type("dataset", self.dataset, DatasetConfig, "@DatasetConfig()")
    _check_type("loss", self.loss, LossConfig, "@LossConfig()")
    _check_type("bad_steps", self.bad_steps, BadSteps, "@BadSteps()")
    _check_type(
      "initial_checkpoint", self.initial_checkpoint, InitialCheckpoint, "@InitialCheckpoint()"
    )
    for name, values in (("parameter_sharding", list(PARAMETER_RULES)), ("trained", TRAINED)):
      value = getattr(self, name)
      _check(value in values, name, value, f"one of {', '.join(map(repr, values))}")
    for name in ("learning_rate", "optimizer"):
      _check(
        callable(getattr(self, name)), name, getattr(self, name), "a reference, e.g. @adafactor"
      )
    for name in (
      "total_steps",
      "num_microbatches",
      "checkpoint_period",
      "checkpoints_kept",
      "eval_period",
      "log_period",
    ):
      _check(_is_count(getattr(self, name), 1), name, getattr(self, name), f"{_COUNT} 1")
    if self.wandb_project is not None:
      check_installed(self.wandb_project)
    for name in ("seed", "show_samples"):
      _check(_is_count(getattr(self, name), 0), name, getattr(self, name), f"{_COUNT} 0")
    _check(
      self.hang_seconds is None or in_range(self.hang_seconds, 1e-3, 1e9),
      "hang_seconds",
      self.hang_seconds,
      "a number above 0, or None",
    )
    _check(
      self.hang_exit in (True, False, None), "hang_exit", self.hang_exit, "True, False or None"
    )
    _check(self.seed < 2**32, "seed", self.seed, "less than 2**32")
    if self.distillation is not None:
      _check_type("distillation", self.distillation, Distillation, "@Distillation(), or None")
    if self.task_evaluation is not None:
      _check_type("task_evaluation", self.task_evaluation, TaskEvaluation, "@TaskEvaluation()")
    _check(
      isinstance(self.best_metric, str | None), "best_metric", self.best_metric, "a name, or None"
    )
    _check(
      self.eval_steps is None or _is_count(self.eval_steps, 1),
      "eval_steps",
      self.eval_steps,
      f"None or {_COUNT} 1",
    )

  def checked_model(self, mesh_shape: MeshShape) -> ModelConfig:
    """Returns the model once everything that can be checked without data was checked."""
    model = self.model.with_lengths(self.dataset.encoder_length)
    model.check_mesh(mesh_shape, self.dataset.batch_size, self.num_microbatches)
    return model

  def make_optimizer(self, definition: ModelDefinition) -> optax.GradientTransformation:
    """Returns the optimizer for a model's parameters."""
    batch_axes = jax.tree.map(
      lambda _, axes: num_batch_axes(axes), definition.shapes, definition.axes
    )
    return self.optimizer(self.learning_rate, batch_axes=batch_axes)


@dataclasses.dataclass(frozen=True)
class EvalConfig:
  """Evaluates checkpoints on the validation split of their task, and on the tasks of `train`.

  Model, dataset, mesh and task_evaluation are those of `train`.

  Attributes:
    checkpoint_step: which checkpoints of MODEL_DIR: a step, a list of steps, 'all', or 'best' (by
      BEST_METRIC); None: the newest good one.
    checkpoint_paths: other checkpoints in place of those, of any format that `convert` knows.
    held_out: whether the cross-entropy of the validation split is measured too; it needs the task's
      cache, training split included.
    output_dir: where predictions, TensorBoard's events and metrics.jsonl go, the latter two into
      `eval`; None: MODEL_DIR.
  """

  checkpoint_step: int | str | tuple[int, ...] | list[int] | None = None
  checkpoint_paths: str | tuple[str, ...] | list[str] = ()
  held_out: bool = True
  output_dir: str | None = None

  def __post_init__(self):
    step = self.checkpoint_step
    steps = (
      step if isinstance(step, tuple | list) else (0,) if step in (None, ALL, BEST) else (step,)
    )
    _check_eval(
      bool(steps) and all(_is_count(s, 0) for s in steps),
      "checkpoint_step",
      step,
      f"a step, a list of steps, {ALL!r}, {BEST!r} or None",
    )
    paths = self.checkpoint_paths
    _check_eval(
      isinstance(paths, str | tuple | list) and all(isinstance(path, str) for path in paths),
      "checkpoint_paths",
      paths,
      "a path in quotes, or a list of them",
    )
    _check_eval(
      not paths or step is None,
      "checkpoint_step",
      step,
      "None where evaluate.checkpoint_paths says which checkpoints are evaluated",
    )


def _check_eval(holds: bool, name: str, value: Any, rule: str) -> None:
  if not holds:
    raise ConfigError(
      f"evaluate.{name} is not valid.", value=f"evaluate.{name} = {value!r}", rule=f"it is {rule}"
    )


def _is_count(value: Any, least: int) -> bool:
  return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _check_type(name: str, value: Any, kind: type, rule: str) -> None:
  _check(isinstance(value, kind), name, value, rule)


def _check(holds: bool, name: str, value: Any, rule: str) -> None:
  if not holds:
    macro = _MACROS.get(name)
    raise ConfigError(
      f"{macro} is not valid." if macro else f"train.{name} is not valid.",
      value=f"train.{name} = {value!r}",
      rule=f"it is {rule}",
    )
