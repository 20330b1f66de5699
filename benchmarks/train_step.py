# SPDX-License-Identifier: Apache-2.0
"""The demo's train step: what the loop adds to it, and what experts add to a dense model's.

  python -m benchmarks.train_step [--json] [--rounds=6]

Runs of steps of the whole loop (reading, placing, hooks with a log line every 20 steps) alternate with
runs of the bare compiled step on one resident batch; then the Switch step with the dense one.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing

import jax

from benchmarks.timing import print_results
from switch_t5.cli import gin_setup
from switch_t5.cli.configurables import CONFIGURABLES
from switch_t5.cli.run_data import open_data
from switch_t5.cli.session import Session, open_session
from switch_t5.cli.train_config import TrainConfig
from switch_t5.metrics.writer import MetricsWriter
from switch_t5.training.goodput import Ledger
from switch_t5.training.hooks import LogHook
from switch_t5.training.init import init_state
from switch_t5.training.interruption import Interruption
from switch_t5.training.loop import train_loop

STEPS = 20  # of a run: one log window


def demo(**changes) -> Session:
  """Returns the demo's session; `changes` replace fields of its ModelConfig."""
  bindings = ["MODEL_DIR = 'not written'"]
  loaded = gin_setup.load(["recipes/pretrain_demo.gin"], bindings, [], CONFIGURABLES)
  config: TrainConfig = loaded.call("train")
  model = dataclasses.replace(config.model, **changes)
  return open_session(dataclasses.replace(config, model=model))


class Steps:
  """A compiled train step with its state, run bare or in the loop."""

  def __init__(self, session: Session, batches: Iterator, writer: MetricsWriter):
    self.session, self.batches, self.writer = session, batches, writer
    self.state = init_state(session.definition, session.optimizer, session.abstract, seed=0)
    compiled = session.trace_train_step(self.state).lower().compile()
    self.step = session.train_step(compiled)
    self.batch = next(batches)

  def bare(self) -> float:
    """Returns seconds per step without anything around it."""
    started = time.perf_counter()
    for _ in range(STEPS):
      self.state, metrics = self.step(self.state, self.batch)
      jax.block_until_ready(metrics)
    return (time.perf_counter() - started) / STEPS

  def loop(self) -> float:
    """Returns seconds per step of the whole loop, its log line included."""
    log = LogHook(STEPS, self.writer.write, self.session.config.learning_rate)
    started = time.perf_counter()
    end = train_loop(
      self.state,
      self.step,
      enumerate(self.batches),
      [log],
      total_steps=int(self.state.step) + STEPS,
      interruption=Interruption(),
      on_step=lambda step: None,
      agree_period=STEPS,
      ledger=Ledger(),
    )
    seconds = (time.perf_counter() - started) / STEPS
    self.state = end.state
    return seconds


def measure(rounds: int) -> dict[str, float]:
  """Returns the ratios of medians, all taken in this process."""
  switch = demo()
  dense = demo(num_experts=0, num_encoder_sparse_layers=0, num_decoder_sparse_layers=0)
  data = open_data(switch.config.dataset, switch.model)
  with (
    jax.set_mesh(switch.mesh),
    tempfile.TemporaryDirectory() as directory,
    closing(MetricsWriter(directory)) as writer,
  ):

    def steps(session: Session) -> Steps:
      return Steps(session, map(session.place, data.train_reader(session.rows)), writer)

    with_experts, without = steps(switch), steps(dense)
    seconds: dict[str, list[float]] = {"loop": [], "bare": [], "dense": []}
    faults = []
    for _ in itertools.repeat(None, rounds):
      seconds["loop"].append(with_experts.loop())
      before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
      seconds["bare"].append(with_experts.bare())
      faults.append((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / STEPS)
      seconds["dense"].append(without.bare())
  medians = {name: statistics.median(times) for name, times in seconds.items()}
  return {
    "loop/bare step": medians["loop"] / medians["bare"],
    "Switch step, 8 experts/dense step": medians["bare"] / medians["dense"],
    "minor page faults per bare step": statistics.median(faults),
    "bare step ms": medians["bare"] * 1e3,
  }


def main() -> None:
  """Prints the ratios."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--json", action="store_true")
  parser.add_argument("--rounds", type=int, default=6)
  arguments = parser.parse_args()
  print_results(measure(arguments.rounds), arguments.json)


if __name__ == "__main__":
  main()
