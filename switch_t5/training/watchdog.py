# SPDX-License-Identifier: Apache-2.0
"""A thread that says where a process stands when nothing moves any more."""

from __future__ import annotations

import datetime
import os
import socket
import sys
import threading
import traceback
from typing import TextIO

import jax

from switch_t5.errors import PeerLostError
from switch_t5.metrics.goodput import (
  CHECKPOINT,
  COMPILATION,
  COMPUTE,
  EVALUATION,
  INPUT,
  LOGGING,
  STARTUP,
)
from switch_t5.storage.location import Location
from switch_t5.training.goodput import Ledger

# One sign of life of these can be a whole checkpoint, or the compilation of a large model.
LONG_KINDS = (STARTUP, COMPILATION, CHECKPOINT, EVALUATION)
PATIENCE = 6
_MEANINGS = {
  COMPUTE: "the devices have not finished a step: another process does not take part, or a device hangs",
  INPUT: "the next batch has not come: the data's storage does not answer, or its reader waits",
  CHECKPOINT: "a checkpoint is not written: the storage of MODEL_DIR does not answer, or another process",
  EVALUATION: "an evaluation does not go on: its input, or a device",
  LOGGING: "metrics are not written: the storage of MODEL_DIR does not answer",
  STARTUP: "the run has not come to its first step: data, a checkpoint to restore, or another process",
  COMPILATION: "XLA has not finished: it may be at work",
}
_WRITING_SECONDS = 10  # storage may be what hangs


class Watchdog:
  """Reports a hang once, with every thread's stack, and that it went on; or ends the process.

  Use it as a context manager. A process that is suspended as a whole has not hung: the clock stands
  still with it.

  Args:
    ledger: of the process's time; each change of kind and each `progress` is a sign of life.
    seconds: without one, after which it is a hang; `PATIENCE` times as long for `LONG_KINDS`.
    folder: where reports go, a file each: MODEL_DIR/hangs.
    ends: whether a process that still hangs a quarter of the time after its report is ended, with the
      exit code of a lost process, for its launcher to start all of them again.
    stream: where it is said; the standard error by default.
  """

  def __init__(
    self,
    ledger: Ledger,
    seconds: float,
    folder: Location,
    *,
    ends: bool,
    stream: TextIO | None = None,
  ):
    self._ledger, self._seconds, self._folder, self._ends = ledger, seconds, folder, ends
    self._stream = sys.stderr if stream is None else stream
    self._stopped = threading.Event()
    self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
    self._who = f"process {jax.process_index()} of {jax.process_count()}, {socket.gethostname()}"

  def __enter__(self) -> Watchdog:
    self._thread.start()
    return self

  def __exit__(self, *exc_info) -> None:
    self._stopped.set()
    self._thread.join()

  def _watch(self) -> None:
    reported = None  # the phase
    while not self._stopped.wait(min(self._seconds / 20, 5.0)):
      phase = kind, since = self._ledger.phase
      waited, limit = self._ledger.clock() - since, self._seconds * _patience(kind)
      if reported not in (None, phase):
        self._say(f"switch_t5: {self._who}: it goes on, after step {self._ledger.step}.")
        reported = None
      if waited >= limit and reported is None:
        self._report(kind, waited)
        reported = phase
      if waited >= 1.25 * limit and self._ends:
        self._say(f"switch_t5: {self._who}: still {kind}; ending with {PeerLostError.exit_code}.")
        os._exit(PeerLostError.exit_code)  # the main thread may be inside a call that never returns

  def _report(self, kind: str, waited: float) -> None:
    now = datetime.datetime.now(datetime.UTC)
    since = now - datetime.timedelta(seconds=waited)
    text = "\n".join(
      [
        f"switch_t5: nothing has moved for {waited:.3g} s: {kind}, after step {self._ledger.step}.",
        f"  who:     {self._who}",
        f"  since:   {since:%Y-%m-%d %H:%M:%S} UTC",
        f"  meaning: {_MEANINGS[kind]}",
        "  where each thread is:",
        *_stacks(),
      ]
    )
    self._say(text)
    name = f"{now:%Y%m%d-%H%M%S}_process_{jax.process_index()}.txt"
    writer = threading.Thread(target=self._write, args=(name, text), daemon=True)
    writer.start()
    writer.join(_WRITING_SECONDS)

  def _write(self, name: str, text: str) -> None:
    try:
      self._folder.mkdir(parents=True, exist_ok=True)
      (self._folder / name).write_text(text + "\n")
    except OSError as error:
      self._say(f"switch_t5: the report was not written to {self._folder}: {error}")

  def _say(self, text: str) -> None:
    print(text, file=self._stream, flush=True)


def _patience(kind: str) -> int:
  return PATIENCE if kind in LONG_KINDS else 1


def _stacks() -> list[str]:
  """Returns the stacks of all threads but this one, the main thread's first, innermost call last."""
  frames = sys._current_frames()
  threads = sorted(threading.enumerate(), key=lambda t: t is not threading.main_thread())
  lines = []
  for thread in threads:
    frame = frames.get(thread.ident or 0)
    if frame is not None and thread is not threading.current_thread():
      lines.append(f"\nThread {thread.name}:")
      lines += "".join(traceback.format_stack(frame)).rstrip().split("\n")
  return lines
