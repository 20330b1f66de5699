# SPDX-License-Identifier: Apache-2.0
"""One run in one MODEL_DIR on an object store: a small object that its holder renews.

It is created, renewed and taken over only if it is still as it was last seen (its generation, or ETag),
so of two runs that want it one gets it. A run that was killed cannot release it: one that is not renewed
for `STALE_SECONDS` is taken over. The clocks of the hosts are not compared: whoever waits has seen for
that long that nothing changed. On the same machine nothing is waited for if the process is gone.
"""

from __future__ import annotations

import datetime
import json
import os
import pathlib
import socket
import sys
import threading
import time
import uuid
from types import TracebackType
from typing import Any

from absl import logging

from switch_t5.errors import ConfigError, StorageError
from switch_t5.storage.kvstore import ConditionalObject, Generation
from switch_t5.storage.location import Location

LOCK = "run.lock"
RENEW_SECONDS = 15
STALE_SECONDS = 120
# A holder that could not renew it stops before another run may take it.
GIVE_UP_SECONDS = 80
_REQUEST_SECONDS = 20


class StoreLock:
  """Holds MODEL_DIR for this process; a context manager. In a run of many processes, process 0's.

  Args:
    model_dir: MODEL_DIR, on an object store.
  """

  def __init__(self, model_dir: Location):
    self._model_dir = model_dir
    self._id = uuid.uuid4().hex
    self._released = threading.Event()
    self._seen: Generation = b""

  def __enter__(self) -> StoreLock:
    """Takes the lock; waits until one that may be stale is known to be or not.

    Raises:
      ConfigError: if another run holds it.
      StorageError: if the store refuses or fails.
    """
    self._object = ConditionalObject(self._model_dir / LOCK, seconds=_REQUEST_SECONDS)
    note = self._wait_until_free()
    if (generation := self._object.write(self._note(), self._seen)) is None:
      content, generation = self._object.read()
      if _parse(content).get("id") != self._id:  # else it was ours, and the answer was lost
        raise in_use(self._model_dir, _holder(_parse(content)))
    self._seen = generation
    if note and not note.get("released"):
      logging.warning(
        "The lock of %s was left behind by %s; this run has taken it over.",
        self._model_dir,
        _holder(note),
      )
    self._renewed = time.monotonic()
    self._thread = threading.Thread(target=self._renew, name="run_lock", daemon=True)
    self._thread.start()
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    self._released.set()
    self._thread.join()
    try:
      self._object.write(self._note(released=True), self._seen)
    except StorageError:
      logging.warning("The lock of %s could not be released.", self._model_dir)

  def _wait_until_free(self) -> dict[str, Any]:
    """Returns the note that may be replaced, {} if there is none."""
    content, self._seen = self._object.read()
    note = _parse(content)
    if content is None or note.get("released") or _is_of_dead_process(note):
      return note
    if note.get("machine") == _machine():
      raise in_use(self._model_dir, _holder(note))  # the kernel says that it runs
    logging.warning(
      "%s is locked by %s; waiting up to %d s to see whether it still runs.",
      self._model_dir,
      _holder(note),
      STALE_SECONDS,
    )
    deadline = time.monotonic() + STALE_SECONDS
    while time.monotonic() < deadline:
      time.sleep(min(RENEW_SECONDS / 3, STALE_SECONDS))
      content, generation = self._object.read()
      note = _parse(content)
      if content is None or note.get("released"):
        self._seen = generation
        return note
      if generation != self._seen:
        raise in_use(self._model_dir, _holder(note))
    return note

  def _renew(self) -> None:
    """Renews the lock until it is released; ends the process if another run has it."""
    while not self._released.wait(RENEW_SECONDS):
      try:
        generation = self._object.write(self._note(), self._seen)
        if generation is None:
          content, generation = self._object.read()
          if _parse(content).get("id") != self._id:
            _end(f"Another run took {self._model_dir} over: {_holder(_parse(content))}.")
        self._seen, self._renewed = generation, time.monotonic()
      except StorageError as error:
        if time.monotonic() - self._renewed > GIVE_UP_SECONDS:
          _end(f"The lock of {self._model_dir} could not be renewed. {error}")

  def _note(self, *, released: bool = False) -> bytes:
    now = datetime.datetime.now().astimezone().isoformat()
    note = {
      "id": self._id,
      "pid": os.getpid(),
      "host": socket.gethostname(),
      "machine": _machine(),
      "began": _began(os.getpid()),
      "renewed": now,
      "released": released,
    }
    return json.dumps(note).encode()


def in_use(model_dir: object, holder: str) -> ConfigError:
  """Returns the error of a MODEL_DIR that another run holds."""
  return ConfigError(
    "Another run is using this MODEL_DIR.",
    value=f"MODEL_DIR = {model_dir}, held by {holder}",
    rule="one run at a time in one MODEL_DIR",
    remedy="wait for that run, stop it, or choose another MODEL_DIR",
  )


def _parse(content: bytes | None) -> dict[str, Any]:
  try:
    note = json.loads(content or b"{}")
    return note if isinstance(note, dict) else {}
  except ValueError:
    return {}


def _holder(note: dict[str, Any]) -> str:
  if "pid" not in note:
    return "a note that cannot be read"
  return f"process {note['pid']} on {note.get('host')}, last heard of {note.get('renewed')}"


def _machine() -> str:
  """Returns what two processes share that see each other's process ids, and no others do."""
  try:
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
  except OSError:
    return uuid.uuid4().hex  # not Linux: no other's


def _is_of_dead_process(note: dict[str, Any]) -> bool:
  return note.get("machine") == _machine() and note.get("began") != _began(note.get("pid"))


def _began(process: object) -> str | None:
  """Returns when a process of this machine began, in the kernel's ticks; None if it is gone."""
  try:
    fields = (
      pathlib.Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    )
  except OSError:
    return None
  return None if fields[0] in "ZX" else fields[19]


def _end(reason: str) -> None:
  """Ends the process at once: whatever it still wrote would be in the other run's way."""
  print(f"switch_t5: {reason}", file=sys.stderr, flush=True)
  os._exit(StorageError.exit_code)
