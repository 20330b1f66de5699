# SPDX-License-Identifier: Apache-2.0
"""What `generate`, `score` and `infer` share: their checkpoint, messages, answers that are numbers."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable

import jax
import jax.monitoring

from switch_t5.cli.flags import CommandLine
from switch_t5.cli.infer_config import LoadConfig
from switch_t5.errors import CheckpointError, ConfigError
from switch_t5.inference.text_model import TextModel

_COMPILED = "/jax/core/compile/backend_compile_duration"


def checkpoint_of(command_line: CommandLine) -> dict[str, str]:
  """Returns the arguments of a LoadConfig that --from and --vocabulary_path give.

  Raises:
    ConfigError: if --from is missing.
  """
  if not command_line.from_path:
    raise ConfigError(
      "--from is missing.",
      rule="--from=PATH is the checkpoint that is asked: a run's folder, or one of T5X, Hugging Face ...",
      remedy="--from=runs/mine",
    )
  given = {"path": command_line.from_path, "vocabulary_path": command_line.vocabulary_path}
  return {name: value for name, value in given.items() if value is not None}


def load(config: LoadConfig, *, at_once: int) -> TextModel:
  """Opens the model, and says so; see `LoadConfig.load`."""
  began = time.monotonic()
  found = config.find()
  model = config.load(found, at_once=at_once)
  say(f"{found.path}: loaded in {time.monotonic() - began:.1f} s")
  return model


def say(text: str) -> None:
  """Prints a message beside the answers, from process 0 alone."""
  if jax.process_index() == 0:
    print(text, file=sys.stderr, flush=True)


def require_numbers(scores: Iterable[float], place: str) -> None:
  """Raises CheckpointError if a score is no number: such a model's answers mean nothing.

  Args:
    scores: of answers.
    place: which texts they are to, for the error.
  """
  for score in scores:
    if not math.isfinite(score):
      raise CheckpointError(
        "The model's score of an answer is not a number.",
        value=f"{score} for {place}",
        rule="log-probabilities are finite",
        remedy='take a checkpoint from before the run diverged, or LoadConfig.dtype = "float32"',
      )


class CompilationClock:
  """Tells how long XLA compiled; a context manager."""

  def __init__(self):
    self._seconds = 0.0

  def __enter__(self) -> CompilationClock:
    jax.monitoring.register_event_duration_secs_listener(self._note)
    return self

  def __exit__(self, *exc_info) -> None:
    jax.monitoring.unregister_event_duration_listener(self._note)

  def _note(self, event: str, duration_secs: float, **metadata: str | int) -> None:
    if event == _COMPILED:
      self._seconds += duration_secs

  def lap(self) -> float:
    """Returns the seconds since the last call."""
    seconds, self._seconds = self._seconds, 0.0
    return seconds
