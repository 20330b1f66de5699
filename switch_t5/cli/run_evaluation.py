# SPDX-License-Identifier: Apache-2.0
"""What a training run measures between steps: the validation split, tasks, the best checkpoint."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import jax

from switch_t5.checkpoint.commit import write_text_durably
from switch_t5.checkpoint.manager import CheckpointManager
from switch_t5.cli.best_checkpoint import BestCheckpoint
from switch_t5.cli.reporter import Reporter
from switch_t5.cli.run_data import RunData
from switch_t5.cli.session import Session
from switch_t5.cli.task_evaluation import TaskEvaluator, table, write_answers
from switch_t5.metrics.piece_counts import PIECES_FILE, PieceCounts
from switch_t5.training.eval_step import EvalStep
from switch_t5.training.loop import LoopState
from switch_t5.types import PyTree


class RunEvaluation:
  """The evaluations of one run; reads the examples of its tasks, and looks for the best metric.

  Args:
    session: mesh, model and layout.
    data: of the run.
    model_dir: MODEL_DIR, where answers go.
    checkpoints: of the run, of which the best is kept.
    reporter: is told what was measured.

  Raises:
    ConfigError: if nothing measures BEST_METRIC.
  """

  def __init__(
    self,
    session: Session,
    data: RunData,
    model_dir: Path,
    checkpoints: CheckpointManager,
    reporter: Reporter,
  ):
    self.session, self.config, self.data = session, session.config, data
    self.model_dir, self.reporter, self.say = model_dir, reporter, reporter.say
    config = self.config
    self.best = BestCheckpoint(model_dir, checkpoints, config.best_metric, config.best_is_larger)
    self.tasks = None
    if config.task_evaluation is not None:
      self.tasks = TaskEvaluator(config.task_evaluation, config.dataset, session, data.vocabulary)
      self.say(self.tasks.describe())
    if config.best_metric is not None:
      known = session.held_out_names() + (self.tasks.metric_names() if self.tasks else [])
      self.best.check(list(dict.fromkeys(known)))

  def __call__(
    self, loop: LoopState, *, stop: Callable[[], bool], save: Callable[[LoopState], None]
  ) -> None:
    """Measures the validation split and the tasks, and says so.

    Args:
      loop: where the run stands.
      stop: asked before each batch, in every process; a signal ends it.
      save: saves a checkpoint that turned out to be the best.
    """
    pieces = self._piece_counts()
    metrics = self.session.held_out_metrics(
      self._eval_step, loop.state.params, self.data, stop=stop, pieces=pieces
    )
    if not metrics:
      self.say(f"The evaluation at step {loop.step} was not finished.")
      return
    if pieces is not None:
      text = json.dumps(pieces.as_json(loop.step), ensure_ascii=False)
      write_text_durably(self.model_dir / PIECES_FILE, text + "\n")
    task = self.config.dataset.mixture_or_task_name
    cross_entropy, accuracy = (metrics[f"eval/{task}/{n}"] for n in ("cross_entropy", "accuracy"))
    self.say(
      f"Held-out at step {loop.step}: {cross_entropy:.3f} nats per target token, "
      f"accuracy {accuracy:.1%}"
    )
    self._last_cross_entropy = cross_entropy
    answered = self._answer_tasks(loop, stop)
    # A task's own accuracy takes the place of its tokens'.
    self.reporter.write(loop.step, metrics | (answered or {}))
    if answered is not None and self.best.see(loop.step, metrics | answered, lambda: save(loop)):
      self.say(f"The best {self.config.best_metric} so far, kept in checkpoint_{loop.step}.")

  def show_samples(self, params: PyTree) -> None:
    """Prints held-out sentences with their spans filled, and the loss beside the unigram's."""
    for example in self.session.fill_held_out_spans(params, self.data):
      self.say(f"\n{example.text}")
      for sentinel, truth, prediction in example.spans:
        self.say(f"  {sentinel:<15} truth: {truth!r:<32} model: {prediction!r}")
    said = f"\nHeld-out cross-entropy {self._last_cross_entropy:.3f} nats per target token"
    unigram = self.data.unigram_entropy()
    if unigram is not None:
      said += f"; unigram entropy of the same targets {unigram:.3f}"
    self.say(f"{said}.")

  def _piece_counts(self) -> PieceCounts | None:
    """Returns what counts the pieces that experts take; None if there are none, or others write."""
    names = self.session.router_names
    if not names or jax.process_index() != 0:
      return None
    return PieceCounts(names, self.session.model.num_experts, self.data.vocabulary.piece)

  @functools.cached_property
  def _eval_step(self) -> EvalStep:
    return self.session.build_eval_step()

  def _answer_tasks(self, loop: LoopState, stop: Callable[[], bool]) -> dict[str, float] | None:
    """Answers the tasks' examples, says and writes how well; returns None if a signal ended it."""
    if self.tasks is None:
      return {}
    evaluated = self.tasks.evaluate(loop.state.params, stop)
    if evaluated is None:
      self.say(f"The tasks' evaluation at step {loop.step} was not finished.")
      return None
    write_answers(self.model_dir, evaluated, f"step_{loop.step}")
    self.say(f"Tasks at step {loop.step} ({evaluated.seconds:.1f} s):\n{table(evaluated)}")
    return evaluated.metrics
