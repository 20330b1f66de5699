# SPDX-License-Identifier: Apache-2.0
"""The mode `cache_teacher`: what a teacher says of the rows of a run, worked out once for any student.

Several jobs may share the work, each started with `--job=I/N`: see `switch_t5.distill.teacher_cache`.
"""

from __future__ import annotations

import collections
import itertools
import time
from collections.abc import Iterable, Iterator

import jax
import numpy as np
from tqdm import tqdm

from switch_t5.cli import distributed, gin_setup
from switch_t5.cli.cache_teacher_config import CacheTeacher
from switch_t5.cli.configurables import CONFIGURABLES
from switch_t5.cli.dataset import STREAMING
from switch_t5.cli.distillation_config import Distillation
from switch_t5.cli.flags import CommandLine
from switch_t5.cli.run_data import Reader, RunData, open_data
from switch_t5.cli.session import Session, open_session
from switch_t5.cli.teacher import Teacher, open_teacher
from switch_t5.cli.train_config import TrainConfig
from switch_t5.distill.teacher_cache import Contents
from switch_t5.distill.teacher_cache_writer import TeacherCacheWriter
from switch_t5.distill.top_k_step import TopKStep, build_top_k_step
from switch_t5.errors import ConfigError, Interrupted
from switch_t5.sharding.placement import from_all_processes
from switch_t5.storage.location import Location, location
from switch_t5.training.interruption import Interruption
from switch_t5.types import DeviceBatch, PyTree

_SHOWN_JOBS = 8


def run(command_line: CommandLine) -> None:
  """Writes a job's share of TEACHER_CACHE; raises Interrupted if a signal came."""
  configuration = gin_setup.load_command_line(command_line, CONFIGURABLES)
  config: CacheTeacher = configuration.call("cache_teacher")
  train: TrainConfig = configuration.call("train")
  distillation = checked_distillation(train)
  distributed.start(command_line, configuration)
  session = open_session(train)
  train.dataset.check_task()
  teacher = open_teacher(distillation, session)
  num_rows = config.num_rows or train.total_steps * train.dataset.batch_size
  _say(teacher.describe())
  data = open_data(train.dataset, session.model)
  teacher.check(data, session)
  contents = contents_of(config, distillation, teacher, session, data)
  _say(f"{describe(contents, num_rows)}; {distillation.teacher_cache}")
  if command_line.dry_run:
    _say("Nothing is written: --dry_run.")
    return
  work = Work(
    location(str(distillation.teacher_cache)), contents, num_rows, command_line.job or (0, 1)
  )
  with session.on_mesh(), Interruption() as interruption:
    work.write(session, teacher, data.train_reader(session.rows), interruption)
  work.report()


def checked_distillation(train: TrainConfig) -> Distillation:
  """Returns the run's distillation, if it names a teacher and a cache, and data to be cached.

  Raises:
    ConfigError: it does not.
  """
  given = train.distillation
  if given is None or given.teacher_path is None or given.teacher_cache is None:
    value = "train.distillation = None"
    if given is not None:
      value = f"TEACHER_PATH = {given.teacher_path!r}, TEACHER_CACHE = {given.teacher_cache!r}"
    raise ConfigError(
      "There is no teacher to ask, or no place for what it says.",
      value=value,
      rule="the gin files of the students' run, with TEACHER_PATH and TEACHER_CACHE",
      remedy="--gin_file=recipes/distill_pretrained.gin --gin.TEACHER_PATH=\"'runs/teacher'\" "
      "--gin.TEACHER_CACHE=\"'caches/teacher'\"",
    )
  if train.dataset.reader == STREAMING:
    raise ConfigError(
      "Rows that are streamed have no number to be kept under.",
      value=f"DatasetConfig.reader = {STREAMING!r}",
      rule="a row follows from SEED and its number: that of the indexed reader",
      remedy="DatasetConfig.reader = 'indexed', or TEACHER_CACHE = None: the teacher is then asked in "
      "each step",
    )
  return given


def contents_of(
  config: CacheTeacher,
  distillation: Distillation,
  teacher: Teacher,
  session: Session,
  data: RunData,
) -> Contents:
  """Returns what the cache is to hold."""
  num_ids = min(session.model.vocab_size, teacher.num_ids)
  if config.top_k > num_ids:
    raise ConfigError(
      "There are fewer ids than probabilities are to be kept of.",
      value=f"cache_teacher.top_k = {config.top_k}",
      rule=f"at most the {num_ids} ids of teacher and student",
    )
  return Contents(
    teacher=teacher.fingerprint,
    teacher_dtype=distillation.teacher_dtype,
    identity=data.identity,
    temperature=distillation.temperature,
    num_ids=num_ids,
    k=config.top_k,
    length=session.config.dataset.decoder_length,
    probs_dtype=config.probs_dtype,
  )


def describe(contents: Contents, num_rows: int) -> str:
  """Returns the size of a cache."""
  ids, probs = (contents.record[name].base for name in ("ids", "probs"))
  size = num_rows * contents.record.itemsize
  return (
    f"Teacher's cache: {num_rows:,} rows of {contents.length} targets, {contents.k} ids ({ids}) and "
    f"probabilities ({probs}) each: {size / 1e6:,.1f} MB"
  )


class Work:
  """A job's share of a cache. Process 0 of the job alone reads and writes its files.

  Args:
    directory: of the cache.
    contents: what it holds.
    num_rows: that it is to have.
    job: (i, n), this job's number, and how many there are.

  Raises:
    DataError: the directory holds another cache, or the disk has no room for this one.
  """

  def __init__(self, directory: Location, contents: Contents, num_rows: int, job: tuple[int, int]):
    self._directory, self._contents, self._num_rows = directory, contents, num_rows
    self._job, self._jobs = job
    self._held, self._targets = 0.0, 0
    self._writes = jax.process_index() == 0
    if self._writes:
      self._writer = TeacherCacheWriter(directory, contents)
      self._writer.check_room(num_rows)
      self._writer.begin()
      self._parts = self._writer.parts(num_rows)

  def write(
    self, session: Session, teacher: Teacher, reader: Reader, interruption: Interruption
  ) -> None:
    """Writes the shards of this job that are not there."""
    mine = self._parts[self._job :: self._jobs] if self._writes else []
    missing = self._writer.missing(mine) if self._writes else []
    # Other processes may not see the files.
    todo = [range(*ends) for ends in from_all_processes([(p.start, p.stop) for p in missing])[0]]
    if not todo:
      return
    top_k_step = build_top_k_step(teacher.definition, self._contents, session.mesh)
    started, params = time.monotonic(), teacher.params
    batches = [-(-len(part) // session.config.dataset.batch_size) for part in todo]
    hidden = None if self._writes else True
    with tqdm(total=sum(batches), unit="batch", dynamic_ncols=True, disable=hidden) as bar:
      for part, count in zip(todo, batches, strict=True):
        reader.restore({"rows_consumed": part.start})
        placed = map(session.place, itertools.islice(reader, count))
        answers = _answers(top_k_step, params, placed, interruption, bar)
        if self._writes:
          self._writer.write(part, self._measured(answers))
        else:
          collections.deque(answers, maxlen=0)
    total = sum(map(len, todo))
    seconds = time.monotonic() - started
    _say(f"{total:,} rows in {seconds:.1f} s, compilation included: {total / seconds:,.1f} rows/s.")
    held = self._held / max(self._targets, 1)
    _say(f"What is kept of a target is {held:.1%} of its probability, on average.")

  def _measured(
    self, answers: Iterable[tuple[np.ndarray, np.ndarray]]
  ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields ids and probabilities as they come, and counts what the latter add up to."""
    for ids, probs in answers:
      self._held += probs.sum(dtype=np.float64)
      self._targets += int((probs[..., 0] > 0).sum())
      yield ids, probs

  def report(self) -> None:
    """Says how far the cache is, and which jobs have not written their shards."""
    if not self._writes:
      return
    missing = set(self._writer.missing(self._parts))
    if not missing:
      self._writer.finish()
      print(f"{self._directory} has all {self._num_rows:,} rows.")
      return
    jobs = [j for j in range(self._jobs) if missing.intersection(self._parts[j :: self._jobs])]
    named = ", ".join(f"--job={job}/{self._jobs}" for job in jobs[:_SHOWN_JOBS])
    more = f" and {len(jobs) - _SHOWN_JOBS} more" if len(jobs) > _SHOWN_JOBS else ""
    done, of = len(self._parts) - len(missing), len(self._parts)
    print(f"{done:,} of {of:,} shards are there; not yet those of {named}{more}")


def _answers(
  top_k_step: TopKStep,
  params: PyTree,
  batches: Iterator[DeviceBatch],
  interruption: Interruption,
  bar: tqdm,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields ids and probabilities of each batch; the next is worked on while one is written.

  Raises:
    Interrupted: a signal came.
  """
  waiting = []
  for batch in batches:
    if interruption.requested(may_communicate=True):
      raise Interrupted(
        f"Stopped by {interruption.signal_name or 'another process'}.",
        rule="shards that are whole are kept",
        remedy="the same command goes on with the shard that it was at",
      )
    waiting.append(top_k_step(params, batch))
    bar.update()
    if len(waiting) > 1:
      yield jax.device_get(waiting.pop(0))
  yield from map(jax.device_get, waiting)


def _say(text: str) -> None:
  """Prints a message from process 0 alone."""
  if jax.process_index() == 0:
    print(text, flush=True)
