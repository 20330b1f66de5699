# SPDX-License-Identifier: Apache-2.0
"""The mode `infer`: answers to all texts of a file or a task, in as many runs and jobs as it takes."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from switch_t5.cli import asking, distributed, gin_setup, infer_store
from switch_t5.cli.configurables import CONFIGURABLES
from switch_t5.cli.flags import CommandLine
from switch_t5.cli.infer_config import AT_ONCE, InferConfig
from switch_t5.cli.infer_input import Inputs, Text, open_inputs
from switch_t5.cli.infer_output import INDEX, OutputFile, lines_done, part_of, part_path
from switch_t5.cli.infer_store import StoredOutput
from switch_t5.cli.load import FoundModel
from switch_t5.errors import DataError, Interrupted
from switch_t5.inference.text_model import TextModel
from switch_t5.storage.location import Location, is_remote, location
from switch_t5.training.interruption import Interruption

_SHOWN = 20  # jobs that are not done
_PART = 8  # batches that are answered between two writes


def run(command_line: CommandLine) -> None:
  """Answers the texts of this job that have no answer yet; raises Interrupted if a signal came."""
  configuration = gin_setup.load_command_line(command_line, CONFIGURABLES, "infer")
  config: InferConfig = configuration.call("infer")
  distributed.start(command_line, configuration)
  found = config.model.find()
  inputs = open_inputs(config, found.vocabulary)
  jobs = Jobs(config.output_file, len(inputs), *(command_line.job or (0, 1)))
  if command_line.dry_run:
    _say(f"{found.path} is asked {len(inputs):,} texts.")
    jobs.report()
    return
  output = _open_output(jobs, follows_from(config, found, inputs, jobs))
  with output if jax.process_index() == 0 else contextlib.nullcontext():
    # Other machines may not see the file.
    done = _from_first_process(output.done if jax.process_index() == 0 else 0)
    if done < len(jobs.numbers):
      model = config.model.load(found, at_once=AT_ONCE)
      with Interruption() as interruption:
        _Run(model, config, output, jobs.numbers).answer(inputs, done, interruption)
  jobs.report()


def _open_output(jobs: Jobs, contents: dict[str, Any]) -> OutputFile | StoredOutput:
  if is_remote(jobs.path):
    return StoredOutput(jobs.path, jobs.numbers, contents)
  return OutputFile(Path(jobs.path), jobs.numbers, contents)


def follows_from(
  config: InferConfig, found: FoundModel, inputs: Inputs, jobs: Jobs
) -> dict[str, Any]:
  """Returns what the answers of a job follow from, JSON by name.

  Neither batch size nor mesh: with others a run goes on, and its scores may differ in the last digits.
  """
  decoding = dataclasses.asdict(config.decoding)
  return {
    "CHECKPOINT_PATH": str(found.path),
    "vocabulary, sha256": found.vocabulary.fingerprint,
    "LoadConfig.dtype": config.model.dtype,
    **inputs.contents(),
    "TASK_FEATURE_LENGTHS": config.task_feature_lengths,
    **{f"DecodingConfig.{key}": value for key, value in decoding.items()},
    "--job": f"{jobs.job}/{jobs.jobs}",
  }


class Jobs:
  """The parts of the work.

  Attributes:
    job: which part this one is, of `jobs`.
    path: of its file.
    numbers: of its texts.
  """

  def __init__(self, output_file: str, count: int, job: int, jobs: int):
    self._output_file, self._count = output_file, count
    self.job, self.jobs = job, jobs
    self.path = part_path(output_file, job, jobs)
    self.numbers = part_of(count, job, jobs)

  def report(self) -> None:
    """Says how far each job is, and what to do with the files if all are done."""
    if jax.process_index() != 0:
      return  # where the files may not be
    parts = [
      (part_path(self._output_file, job, self.jobs), part_of(self._count, job, self.jobs))
      for job in range(self.jobs)
    ]
    left = []
    for path, numbers in parts:
      done = _lines_done(path, numbers)
      if done < len(numbers):
        left.append(f"  {path}: {done:,} of {len(numbers):,} lines")
    if left:
      more = [f"  and {len(left) - _SHOWN} more"] if len(left) > _SHOWN else []
      print(f"{self.jobs - len(left)} of {self.jobs} job(s) done.")
      print("\n".join([*left[:_SHOWN], *more]))
    elif self.jobs == 1:
      print(f"Done: all {self._count:,} lines are in {self.path}.")
    else:
      pattern = f"{self._output_file}-*-of-{self.jobs:05d}"
      cat = "gcloud storage cat" if pattern.startswith("gs://") else "cat"
      here = location(self._output_file).name if is_remote(pattern) else self._output_file
      print(f"All {self.jobs} jobs are done: {cat} {pattern} > {here}")


def _lines_done(path: Location, numbers: range) -> int:
  if is_remote(path):
    return infer_store.lines_done(path, numbers)
  return lines_done(Path(path), numbers) if path.exists() else 0


class _Run:
  """One process's part in answering a job's texts."""

  def __init__(
    self,
    model: TextModel,
    config: InferConfig,
    output: OutputFile | StoredOutput,
    numbers: range,
  ):
    self._model, self._config, self._output = model, config, output
    self._numbers = numbers
    self._writes = jax.process_index() == 0

  def answer(self, inputs: Inputs, done: int, interruption: Interruption) -> None:
    """Answers what follows the first `done` texts."""
    waiting = self._numbers[done:]
    if done:
      _say(f"{done:,} of {len(self._numbers):,} lines are there; going on.")
    texts = itertools.islice(inputs.read(waiting.start), len(waiting))
    started, tokens, num_cut = time.monotonic(), 0, 0
    bar = tqdm(
      total=len(self._numbers),
      initial=done,
      unit="line",
      dynamic_ncols=True,
      disable=None if self._writes else True,
    )
    with bar:
      for part in _parts(texts, _PART * self._model.batch_size):
        rows, new_tokens = self._answers(part, self._numbers.start + done)
        if self._writes:
          self._output.append(rows)
        done, tokens = done + len(part), tokens + new_tokens
        num_cut += sum(text.is_cut for text in part)
        bar.update(len(part))
        if interruption.requested(may_communicate=True) and done < len(self._numbers):
          raise Interrupted(
            f"Stopped by {interruption.signal_name or 'another process'} after {done:,} of "
            f"{len(self._numbers):,} lines.",
            remedy="the same command goes on from there",
          )
    if done < len(self._numbers):
      raise DataError("There are fewer texts than were counted.", rule="they stay as they are")
    seconds = time.monotonic() - started
    _say(
      f"{len(waiting):,} lines answered in {seconds:.1f} s, compilation included: "
      f"{len(waiting) / seconds:,.1f} lines/s, {tokens / seconds:,.0f} tokens/s."
    )
    if num_cut:
      length = self._config.task_feature_lengths["inputs"]
      _say(f"The inputs of {num_cut:,} of them were longer than {length} tokens and were cut.")

  def _answers(self, texts: Sequence[Text], first: int) -> tuple[list[dict[str, Any]], int]:
    """Returns a row for each text, and how many tokens the answers have."""
    decoding = self._config.decoding
    found = self._model.search([text.ids for text in texts], decoding, first)
    rows, tokens = [], 0
    for number, (text, generated) in enumerate(zip(texts, found, strict=True), start=first):
      asking.require_numbers((score for _, score in generated), f"text {number}")
      answers = [
        {"prediction": self._model.vocabulary.decode(ids), "score": score}
        for ids, score in generated
      ]
      more = {"answers": answers} if len(answers) > 1 else {}
      rows.append({INDEX: number} | text.row | answers[0] | more)
      tokens += sum(len(ids) for ids, _ in generated)
    return rows, tokens


def _parts(texts: Iterator[Text], size: int) -> Iterator[list[Text]]:
  while part := list(itertools.islice(texts, size)):
    yield part


def _from_first_process(value: int) -> int:
  """Returns what process 0 has."""
  if jax.process_count() == 1:
    return value
  return int(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def _say(text: str) -> None:
  """Prints a message from process 0 alone."""
  if jax.process_index() == 0:
    print(text, flush=True)
