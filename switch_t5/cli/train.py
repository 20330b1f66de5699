# SPDX-License-Identifier: Apache-2.0
"""The mode `train`: puts model, data, checkpoints and hooks together around the one loop."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Iterator

import jax

from switch_t5.checkpoint.initial import InitialParameters, SavedState
from switch_t5.checkpoint.listing import list_steps
from switch_t5.checkpoint.manager import CheckpointManager, RestoredCheckpoint
from switch_t5.checkpoint.run_lock import run_lock
from switch_t5.cli import bad_batches, distributed, gin_setup, run_record, student
from switch_t5.cli import dataset as dataset_lib
from switch_t5.cli.configurables import CONFIGURABLES
from switch_t5.cli.flags import CommandLine
from switch_t5.cli.reporter import Reporter
from switch_t5.cli.run_data import Reader, open_data
from switch_t5.cli.run_evaluation import RunEvaluation
from switch_t5.cli.run_life import RunLife
from switch_t5.cli.session import Session, open_session
from switch_t5.cli.teacher import open_teaching
from switch_t5.cli.train_config import TrainConfig
from switch_t5.errors import ConfigError, Interrupted
from switch_t5.interop.initial import open_parameters, open_state
from switch_t5.interop.student import BY_LOAD, StudentParameters
from switch_t5.metrics.alarms import Alarms
from switch_t5.metrics.goodput import CHECKPOINT, COMPILATION, EVALUATION
from switch_t5.model.config import ModelConfig
from switch_t5.storage.location import location
from switch_t5.training.bad_steps import GO_BACK, SKIP
from switch_t5.training.goodput import Ledger
from switch_t5.training.hooks import CheckpointHook, EvalHook, LogHook
from switch_t5.training.host_spread import HostSpread
from switch_t5.training.init import init_state
from switch_t5.training.interruption import Interruption
from switch_t5.training.left_out import BadStepWatch
from switch_t5.training.loop import Hook, LoopState, train_loop
from switch_t5.training.state import TrainState
from switch_t5.training.trace import StepTrace
from switch_t5.training.train_step import TrainStep
from switch_t5.training.watchdog import Watchdog
from switch_t5.types import DeviceBatch

AGREE_STEPS = 10  # a small collective: after so many steps processes ask each other for signals


def run(command_line: CommandLine) -> None:
  """Trains as the command line says; raises Interrupted if a signal stopped it after saving."""
  configuration = gin_setup.load_command_line(command_line, CONFIGURABLES)
  config: TrainConfig = configuration.call("train")
  distributed.start(command_line, configuration)
  session = open_session(config)
  config.dataset.check_task()
  ledger = Ledger(command_line.started)
  training = Run(session, configuration.operative_config("train"), command_line.trace_steps, ledger)
  training.open_initial_checkpoint()
  training.open_teacher()
  if command_line.dry_run:
    print(f"{describe(session)}\nNothing is trained: --dry_run.")
    return
  training.open_data()  # what is wrong with it is said before MODEL_DIR is touched
  what = training.identity | {"rows left out": sorted(training.bad_steps.left_out)}
  distributed.agree("The processes of the run do not read the same data.", what)
  lock = run_lock(config.model_dir) if jax.process_index() == 0 else contextlib.nullcontext()
  watched = training.watched()
  with lock, session.on_mesh(), ledger.watch_compilation(), watched, Interruption() as interruption:
    training.train(interruption)


def describe(session: Session) -> str:
  """Returns what is about to be trained in two lines, and what is short of places in more."""
  model, config = session.model, session.config
  sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(session.definition.shapes)]
  chosen = [n for n, yes in zip(sizes, jax.tree.leaves(session.trained), strict=True) if yes]
  frozen = "" if len(chosen) == len(sizes) else f", of which {sum(chosen):,} are trained"
  mesh = ", ".join(f"{axis} {size}" for axis, size in session.mesh.shape.items())
  return (
    f"Model: {model.kind}, {sum(sizes):,} parameters{frozen}, {model.activation_dtype} activations\n"
    f"Mesh: {mesh} on {jax.devices()[0].device_kind}; batch {config.dataset.batch_size} in "
    f"{config.num_microbatches} microbatch(es); MODEL_DIR {config.model_dir}"
    f"{''.join(map(functools.partial(short_of_places, model), model.sparse_stacks))}"
  )


def short_of_places(model: ModelConfig, stack: str) -> str:
  """Returns a line that says so if a stack's tokens make more choices than there are places."""
  factor, choices = model.train_capacity_factor, model.router(stack).num_selected_experts
  takes = model.router(stack).kind == "expert_choice"  # its places follow from its own option
  if takes or factor is None or factor >= choices:
    return ""
  return (
    f"\nPlaces: each token of the {stack} makes {choices} choice(s), and there are places for {factor:g}: "
    f"{1 - factor / choices:.0%} or more of the choices will be dropped. "
    f"ModelConfig.train_capacity_factor = {1.25 * choices:g} has room for them"
  )


def check_steps_left(initial: SavedState, total_steps: int) -> None:
  """Raises ConfigError if a run would begin where it is to end."""
  if initial.step >= total_steps:
    raise ConfigError(
      "There is nothing to train.",
      value=f"TRAIN_STEPS = {total_steps}; {initial.path} is of step {initial.step}",
      rule="with InitialCheckpoint.restore_optimizer, TRAIN_STEPS counts the steps of the checkpoint too",
      remedy=f"TRAIN_STEPS = {initial.step + total_steps} trains {total_steps} steps more",
    )


class Run:
  """One process's part of a training run.

  Args:
    session: mesh, model and layout.
    config_text: the operative configuration, saved with every checkpoint.
    trace_steps: first and last step of a profiler trace, or None.
    ledger: of this process's time.
  """

  def __init__(
    self,
    session: Session,
    config_text: str,
    trace_steps: tuple[int, int] | None,
    ledger: Ledger,
  ):
    self.trace_steps, self.ledger = trace_steps, ledger
    self.session, self.config, self.config_text = session, session.config, config_text
    self.model_dir = location(self.config.model_dir)
    self.checkpoints = CheckpointManager(
      self.model_dir / "checkpoints", keep=self.config.checkpoints_kept
    )
    self.checkpoint_hook = CheckpointHook(self.config.checkpoint_period, self.save)
    self.reporter = Reporter(self.model_dir, self.config.wandb_project)
    limits = self.config.alarms
    self.alarms = Alarms(limits, session.model.num_experts) if limits else None
    self.say = self.reporter.say
    self.bad_steps = BadStepWatch(
      self.config.bad_steps,
      self.config.dataset.batch_size,
      bad_batches.read(self.model_dir),
      functools.partial(bad_batches.write, self.model_dir),
      self.say,
    )

  def watched(self) -> contextlib.AbstractContextManager:
    """Reports a hang while it is entered."""
    config = self.config
    if config.hang_seconds is None:
      return contextlib.nullcontext()
    ends = jax.process_count() > 1 if config.hang_exit is None else config.hang_exit
    return Watchdog(self.ledger, config.hang_seconds, self.model_dir / "hangs", ends=ends)

  def interrupted(self) -> bool:
    """Whether to stop, asked by all processes between the batches of something long."""
    self.ledger.progress()
    return self.interruption.requested(may_communicate=True)

  def train(self, interruption: Interruption) -> None:
    """Trains to the end, or until interrupted: then saves and raises Interrupted."""
    self.interruption = interruption
    state = self.newest_state()
    step = int(state.step)
    if step >= self.config.total_steps:
      self.say(f"Nothing to train: step {step} of {self.config.total_steps} is done.")
      return
    self.record_start(step)
    self.life = RunLife(self.model_dir, self.ledger) if jax.process_index() == 0 else None
    self.evaluation.best.resume(step)
    train_step = self.compile(state)
    self.reporter.start(self.config.total_steps, step, {"config.gin": self.config_text})
    # A save that has begun is finished however the loop ends: a diverged run's last one is good.
    with contextlib.ExitStack() as stack:
      stack.enter_context(contextlib.closing(self.reporter))
      stack.enter_context(contextlib.closing(self.checkpoints))
      trace = StepTrace(self.model_dir / "trace", self.trace_steps, step)
      stack.enter_context(contextlib.closing(trace))

      def on_step(done: int) -> None:
        self.checkpoints.check()  # of a save that is being written
        self.reporter.step(done)
        trace.step(done)

      hooks = self.hooks()
      while True:
        loop = train_loop(
          state,
          train_step,
          self.batches(),
          hooks,
          total_steps=self.config.total_steps,
          interruption=interruption,
          agree_period=min(self.config.log_period, AGREE_STEPS),
          on_step=on_step,
          ledger=self.ledger,
          goes_back=self.bad_steps,
        )
        if not loop.goes_back:
          break
        del loop, state  # the device has no room for two
        state = self.go_back()
      self.finish(loop, interruption)

  def newest_state(self) -> TrainState:
    """Returns the newest good checkpoint's state, or a new one, and moves the reader to its position."""
    restored = self.checkpoints.restore(self.session.abstract)
    if restored is None or restored.is_imported:
      self.rows_drawn = 0
    else:
      dataset_lib.check_identity(restored.data_state["identity"], self.identity)
      self.reader.restore(restored.data_state["position"])
      rows = restored.step * self.config.dataset.batch_size
      self.rows_drawn = restored.data_state.get("rows_drawn", rows)
    return self.first_state(restored)

  def go_back(self) -> TrainState:
    """Returns what the run goes on from without what is left out now."""
    with self.ledger.measure(CHECKPOINT):
      self.checkpoints.wait()  # the newest one may still be written
      self.reader.restore(self.beginning)  # should there be none
      return self.newest_state()

  def open_initial_checkpoint(self) -> None:
    """Verifies what a new run starts from; a run with checkpoints goes on with them."""
    given = self.config.initial_checkpoint
    self.initial: InitialParameters | SavedState | StudentParameters | None = None
    if given.path is None or list_steps(self.model_dir / "checkpoints"):
      return
    if given.restore_optimizer:
      self.initial = open_state(given.path, self.session.abstract)
      check_steps_left(self.initial, self.config.total_steps)
    elif given.as_teacher is not None:
      self.initial = student.open_student(given, self.session)
    else:
      shapes = self.session.definition.shapes
      source = open_parameters(given.path, self.session.model)
      self.initial = InitialParameters(source, shapes, given.assignment_map)

  def open_teacher(self) -> None:
    """Finds the teacher of a distillation."""
    given = self.config.distillation
    self.teacher = None if given is None else open_teaching(given, self.session)

  def open_data(self) -> None:
    """Opens the task and its readers."""
    self.say(describe(self.session))
    self.data = open_data(self.config.dataset, self.session.model)
    self.identity = dict(self.data.identity)
    if isinstance(self.initial, StudentParameters):
      student.check_vocabulary(self.initial, self.data.vocabulary)
    self.reader: Reader = self.data.train_reader(self.session.rows)
    if self.teacher is not None:
      self.teacher.check(self.data, self.session)
      self.say(self.teacher.describe())
      self.reader = self.teacher.reader(self.reader, self.session.rows)
      # A run that goes on with another teacher would end as neither made it.
      self.identity |= {"teacher": self.teacher.fingerprint}
    if self.config.bad_steps.action == GO_BACK:
      self.beginning = self.reader.state()  # of a stream megabytes, from all processes
    # Not at the first evaluation: a split that is smaller than a row is refused now.
    self.data.validation_reader(self.session.rows)
    self.say(f"Data: {self.config.dataset.mixture_or_task_name}, {self.data.description}")
    self.evaluation = RunEvaluation(
      self.session, self.data, self.model_dir, self.checkpoints, self.reporter
    )

  def first_state(self, restored: RestoredCheckpoint | None) -> TrainState:
    """Returns the newest good checkpoint's state, or a new one."""
    if restored is None:
      if isinstance(self.initial, SavedState):
        self.say(
          f"Going on from step {self.initial.step} of {self.initial.path}, with its optimizer; the "
          "data begin at their first row."
        )
        return self.initial.load()
      self.say(f"Starting from new parameters (seed {self.config.seed}).")
      session = self.session
      if isinstance(self.initial, StudentParameters):
        self.count_experts(self.initial)
      state = init_state(session.definition, session.optimizer, session.abstract, self.config.seed)
      if self.initial is None:
        return state
      self.say(self.initial.describe())
      return state._replace(params=self.initial.load(state.params))
    for skipped in restored.skipped:
      self.say(f"Checkpoint {skipped.step} is damaged and was passed over: {skipped.reason}")
    self.say(f"Resuming from step {restored.step}, saved in {self.model_dir / 'checkpoints'}.")
    if restored.is_imported:
      self.say("It was imported: the data begin at their first row.")
      return restored.state
    changed = run_record.changed_lines(restored.config_text, self.config_text)
    if changed:
      self.say("The configuration has changed since:\n  " + "\n  ".join(changed[:20]))
    return restored.state

  def count_experts(self, initial: StudentParameters) -> None:
    """Lets the teacher say how many tokens choose each expert, if a student is made by that."""
    given = self.config.initial_checkpoint
    if given.as_teacher in BY_LOAD:
      self.say(f"Counting the choices of {given.path} over {student.LOAD_BATCHES} batches ...")
      initial.measured(student.expert_loads(str(given.path), self.session, self.data))

  def record_start(self, step: int) -> None:
    """Writes run.json and config.gin."""
    if jax.process_index() == 0:
      start = run_record.describe_start(self.config.mesh_shape, step, self.identity)
      if self.teacher is not None:
        start["teacher"] = self.teacher.record()
      run_record.write(self.model_dir, self.config_text, start)

  def compile(self, state: TrainState) -> TrainStep:
    """Compiles the train step ahead of the loop, so that its time is not taken for training's."""
    session, started = self.session, time.perf_counter()
    before = self.ledger.enter(COMPILATION)
    self.say("Compiling the train step ...")
    soft_targets, k, frozen = None, 0, None
    if self.teacher is not None:
      soft_targets = self.teacher.soft_targets(session.model.vocab_size)
      k, frozen = self.teacher.k, self.teacher.params
    traced = session.trace_train_step(state, soft_targets=soft_targets, teacher_k=k, frozen=frozen)
    compiled = traced.lower().compile()
    self.ledger.enter(before)
    self.say(f"Compiled in {time.perf_counter() - started:.1f} s.")
    return session.train_step(compiled, frozen)

  def batches(self) -> Iterator[tuple[int, DeviceBatch]]:
    """Yields global batches with the places of their first rows, and passes over those that are left
    out; the reader's position is that of the batch last yielded.
    """
    for batch in self.reader:
      first_row = self.rows_drawn
      self.rows_drawn += self.config.dataset.batch_size
      if self.bad_steps.passes(first_row):
        yield first_row, self.session.place(batch)

  def hooks(self) -> list[Hook]:
    """Returns what happens between steps, in order."""
    config = self.config
    routers = self.session.router_names
    return [
      LogHook(
        config.log_period,
        self.write_log,
        config.learning_rate,
        routers,
        self.session.step_flops,
        HostSpread(self.say),
        skips=config.bad_steps.action == SKIP,
      ),
      self.checkpoint_hook,
      EvalHook(config.eval_period, self.evaluate),
    ]

  def write_log(self, step: int, metrics: dict[str, float], loads: dict[str, str]) -> None:
    """Writes a log line, with the time that went into what, and sounds the alarms that it gives."""
    self.reporter.write(step, metrics | (self.life.metrics() if self.life else {}), loads)
    for alarm in self.alarms.see(step, metrics) if self.alarms else ():
      self.say(str(alarm))

  def save(self, loop: LoopState) -> None:
    """Starts an asynchronous save of the state and the position in the data."""
    data_state = {
      "position": self.reader.state(),
      "rows_drawn": self.rows_drawn,
      "identity": self.identity,
    }
    self.checkpoints.save(
      loop.step, loop.state, data_state=data_state, config_text=self.config_text
    )

  def evaluate(self, loop: LoopState) -> None:
    """Measures what the configuration says; a signal ends it."""
    self.evaluation(loop, stop=self.interrupted, save=self.checkpoint_hook)

  def finish(self, loop: LoopState, interruption: Interruption) -> None:
    """Saves the last step and says how it ended."""
    with self.ledger.measure(CHECKPOINT):
      self.checkpoint_hook(loop)
      self.checkpoints.wait()
    stopped = loop.step < self.config.total_steps or self.interrupted()
    if self.config.show_samples and not stopped:
      with self.ledger.measure(EVALUATION):
        self.evaluation.show_samples(loop.state.params)
    if self.life is not None:
      self.reporter.write(loop.step, self.life.metrics(done=not stopped))
      self.say(self.life.describe())
    if stopped:
      raise Interrupted(
        f"Stopped by {interruption.signal_name or 'another process'} at step {loop.step} of "
        f"{self.config.total_steps}; everything is saved.",
        value=f"{self.model_dir}/checkpoints/checkpoint_{loop.step}",
        remedy="the same command goes on from there",
      )
    self.say(f"Done: step {loop.step}, saved in {self.model_dir}/checkpoints.")
