# SPDX-License-Identifier: Apache-2.0
"""One run in one MODEL_DIR: a lock that the kernel releases however the run ends."""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import pathlib
import socket
from types import TracebackType

from switch_t5.checkpoint.store_lock import StoreLock, in_use
from switch_t5.errors import ConfigError
from switch_t5.storage.location import is_remote, location

_LOCK_FILE = "run.lock"


def run_lock(model_dir: str | os.PathLike[str]) -> RunLock | StoreLock:
  """Returns the lock of MODEL_DIR, by where it is.

  Raises:
    ConfigError: if it is neither a path of a file system nor of an object store.
  """
  return StoreLock(location(model_dir)) if is_remote(model_dir) else RunLock(model_dir)


class RunLock:
  """Holds MODEL_DIR for this process; a context manager. In a run of many processes, process 0's.

  It is `flock` on a small file, so kill -9 leaves nothing behind that would block the next run. The
  file stays and is only a note of who holds or held it.

  Args:
    model_dir: MODEL_DIR; made if it does not exist.

  Raises:
    ConfigError: if it is not a path of a file system.
  """

  def __init__(self, model_dir: str | os.PathLike[str]):
    if is_remote(model_dir):  # pathlib would make a directory named `gs:`
      raise ConfigError("The directory is not on a file system.", value=model_dir)
    self._model_dir = pathlib.Path(location(model_dir))
    self._file: int | None = None

  def __enter__(self) -> RunLock:
    """Takes the lock.

    Raises:
      ConfigError: if another run holds it (nothing is written then), or MODEL_DIR cannot be used.
    """
    try:
      self._model_dir.mkdir(parents=True, exist_ok=True)
      self._file = os.open(self._model_dir / _LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
      fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      note = {"pid": os.getpid(), "host": socket.gethostname(), "started": _now()}
      os.ftruncate(self._file, 0)
      os.pwrite(self._file, json.dumps(note).encode(), 0)
    except OSError as error:
      refusal = self._refusal(error)
      self._release()
      raise refusal from error
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    self._release()

  def _release(self) -> None:
    if self._file is not None:
      os.close(self._file)
      self._file = None

  def _refusal(self, error: OSError) -> ConfigError:
    if isinstance(error, BlockingIOError) and self._file is not None:
      return in_use(self._model_dir, _holder(self._file))
    return ConfigError(
      f"MODEL_DIR cannot be written: {error.strerror}.",
      value=f"MODEL_DIR = {self._model_dir}",
      rule="MODEL_DIR is a directory that exists or can be made, and that may be written and locked",
      remedy="--gin.MODEL_DIR=\"'a/directory/of/yours'\"",
    )


def _holder(file: int) -> str:
  try:
    note = json.loads(os.pread(file, 4096, 0))
    return f"process {note['pid']} on {note['host']}, started {note['started']}"
  except (ValueError, KeyError, TypeError):  # it holds the lock and has yet to write its note
    return "a process that has just started"


def _now() -> str:
  return datetime.datetime.now().astimezone().isoformat(timespec="seconds")
