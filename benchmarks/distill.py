# SPDX-License-Identifier: Apache-2.0
"""What a teacher costs: the demo's dense student with its Switch teacher in memory, and from a cache.

  python -m benchmarks.distill [--json] [--rounds=20] [--top_k=64]

All programs run in turn on one batch that stays on the device; the parameters are new, which costs the
same as trained ones. Reading the cache is not part of the step: it runs ahead of it, as data does.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import jax

from benchmarks.timing import interleaved, print_results
from benchmarks.train_step import demo
from switch_t5.cli.load import for_inference
from switch_t5.cli.run_data import open_data
from switch_t5.cli.session import Session
from switch_t5.distill.soft_targets import CachedTeacher, LiveTeacher, teacher_logits
from switch_t5.losses.soft_cross_entropy import top_k_probabilities
from switch_t5.model.definition import ModelDefinition, define_model
from switch_t5.training.init import init_state
from switch_t5.training.state import abstract_params, shardings
from switch_t5.types import DeviceBatch, PyTree

FRACTION, TEMPERATURE = 0.25, 1.0


def step_of(session: Session, batch: DeviceBatch, **teacher: Any) -> Callable[[], object]:
  """Returns a program that trains one step, from where the last one left off.

  Args:
    session: of the student.
    batch: with what a teacher's cache says, if there is one.
    **teacher: as `Session.trace_train_step` takes it.
  """
  state = init_state(session.definition, session.optimizer, session.abstract, seed=0)
  compiled = session.trace_train_step(state, **teacher).lower().compile()
  train_step = session.train_step(compiled, teacher.get("frozen"))

  def run() -> object:
    nonlocal state
    state, metrics = train_step(state, batch)
    return metrics

  return run


def teacher_of(session: Session) -> tuple[ModelDefinition, PyTree]:
  """Returns the demo's Switch model as a teacher, with new parameters."""
  definition = define_model(for_inference(session.model, None))
  laid_out = shardings(abstract_params(definition, session.mesh))
  return definition, jax.jit(definition.init, out_shardings=laid_out)(jax.random.key(0))


def measure(rounds: int, top_k: int) -> dict[str, float]:
  """Returns the ratios of medians, all taken in this process."""
  student = demo(num_experts=0, num_encoder_sparse_layers=0, num_decoder_sparse_layers=0)
  data = open_data(student.config.dataset, student.model)
  num_ids = student.model.vocab_size
  with jax.set_mesh(student.mesh):
    batch = student.place(next(data.train_reader(student.rows)))
    definition, params = teacher_of(demo())
    microbatch = {name: feature[0] for name, feature in batch.items()}
    forward = jax.jit(lambda params: teacher_logits(definition, params, microbatch))
    ids, probs = jax.jit(lambda logits: top_k_probabilities(logits, top_k, TEMPERATURE, num_ids))(
      forward(params)
    )
    leading = batch["decoder_target_tokens"].shape
    said = {"teacher_ids": ids.reshape(*leading, -1), "teacher_probs": probs.reshape(*leading, -1)}
    live = LiveTeacher(definition, FRACTION, TEMPERATURE, num_ids)
    cached = CachedTeacher(FRACTION, TEMPERATURE, num_ids)
    seconds = interleaved(
      {
        "plain": step_of(student, batch),
        "live": step_of(student, batch, soft_targets=live, frozen=params),
        "cached": step_of(student, batch | said, soft_targets=cached, teacher_k=top_k),
        "teacher": lambda: forward(params),
      },
      rounds,
    )
  return {
    "live/(plain step + teacher's forward pass)": seconds["live"]
    / (seconds["plain"] + seconds["teacher"]),
    "cached/plain step": seconds["cached"] / seconds["plain"],
    "live/plain step": seconds["live"] / seconds["plain"],
    "plain step ms": seconds["plain"] * 1e3,
  }


def main() -> None:
  """Prints the ratios."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--json", action="store_true")
  parser.add_argument("--rounds", type=int, default=20)
  parser.add_argument("--top_k", type=int, default=64)
  arguments = parser.parse_args()
  print_results(measure(arguments.rounds, arguments.top_k), arguments.json)


if __name__ == "__main__":
  main()
