# SPDX-License-Identifier: Apache-2.0
"""Processes that judge changes; one that dies or takes too long is a verdict, and is replaced."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import pathlib
import random
import resource
import shutil
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import NamedTuple

from benchmarks.fuzzing.judge import FAULT, Judge, Verdict
from benchmarks.fuzzing.mutation import Mutation
from benchmarks.fuzzing.pristine import Variant

TIME_LIMIT = 20.0  # seconds to open and read
_SETTING_UP = 120.0  # seconds to start and to make a change, on a machine that others use
_ADDRESSES = 4 << 30  # bytes that a process may ask for: more would be the machine's end


class Task(NamedTuple):
  """One change to judge: which is a function of the two."""

  variant: Variant
  seed: str


@dataclasses.dataclass
class _Worker:
  process: BaseProcess
  connection: Connection
  task: Task
  deadline: float
  mutation: Mutation | None = None


def judge_all(
  tasks: Sequence[Task], folder: pathlib.Path, workers: int
) -> Iterator[tuple[Task, Verdict]]:
  """Yields the verdict of each task as it comes.

  Args:
    tasks: what to judge.
    folder: in which each process has a folder.
    workers: how many processes.
  """
  left = list(reversed(tasks))
  running: list[_Worker] = []
  try:
    while left or running:
      while left and len(running) < workers:
        running.append(_start(left.pop(), folder))
      wait([worker.connection for worker in running], timeout=0.5)
      for worker in list(running):
        verdict = _hear(worker)
        if verdict is None:
          continue
        yield worker.task, verdict
        if worker.process.is_alive() and left:
          _give(worker, left.pop())
        else:
          _stop(worker)
          running.remove(worker)
  finally:
    for worker in running:
      _stop(worker)


def _start(task: Task, folder: pathlib.Path) -> _Worker:
  context = multiprocessing.get_context("spawn")
  here, there = context.Pipe()
  process = context.Process(target=_work, args=(there, folder), daemon=True)
  process.start()
  there.close()
  worker = _Worker(process, here, task, 0.0)
  _give(worker, task)
  return worker


def _give(worker: _Worker, task: Task) -> None:
  worker.task, worker.mutation = task, None
  worker.deadline = time.monotonic() + _SETTING_UP
  worker.connection.send(task)


def _hear(worker: _Worker) -> Verdict | None:
  """Returns the verdict if there is one; it is a fault if the process died or time is up."""
  try:
    while worker.connection.poll():
      message = worker.connection.recv()
      if isinstance(message, Verdict):
        return message
      worker.mutation, worker.deadline = message, time.monotonic() + TIME_LIMIT
  except (EOFError, ConnectionError):
    worker.process.join()
    return _ended(worker, f"the process died with exit code {worker.process.exitcode}")
  if time.monotonic() > worker.deadline:
    worker.process.kill()
    worker.process.join()
    return _ended(worker, f"not done after {TIME_LIMIT:.0f} s")
  return None


def _ended(worker: _Worker, how: str) -> Verdict:
  if worker.mutation is None:
    raise RuntimeError(f"a change could not be made ({worker.task}): {how}")
  return Verdict(FAULT, worker.mutation, how, TIME_LIMIT, 0.0)


def _stop(worker: _Worker) -> None:
  worker.connection.close()
  worker.process.kill()
  worker.process.join()


def _work(connection: Connection, parent: pathlib.Path) -> None:
  """Judges what comes until nothing does."""
  folder = parent / f"process_{os.getpid()}"
  folder.mkdir()
  os.chdir(folder)
  judge = Judge(folder)
  limit = _addresses() + _ADDRESSES
  resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
  while True:
    try:
      task = connection.recv()
    except EOFError:
      return
    shutil.rmtree(folder / "copy", ignore_errors=True)
    connection.send(judge.judge(task.variant, random.Random(task.seed), connection.send))


def _addresses() -> int:
  pages = pathlib.Path("/proc/self/statm").read_text().split()[0]
  return int(pages) * resource.getpagesize()
