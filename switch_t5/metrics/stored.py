# SPDX-License-Identifier: Apache-2.0
"""Metrics of a run on an object store, where nothing can be appended to.

They are written to a folder of this machine as a run's on disk are (the *spool*,
`~/.cache/switch_t5/spool`), and a thread puts them into MODEL_DIR: the lines in parts, of which the
last one is put anew until it is full, events as whole files. A run that is killed loses what was not
put yet (`UPLOAD_SECONDS`, of events `EVENTS_SECONDS`), unless its next start is on the same machine:
that puts what it finds in the spool.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from switch_t5.errors import ConfigError, SwitchT5Error
from switch_t5.metrics.writer import (
  EVENTS_DIRECTORY,
  METRICS_FILE,
  PARTS_DIRECTORY,
  MetricsWriter,
)
from switch_t5.storage import objects
from switch_t5.storage.location import Location, is_remote, location

UPLOAD_SECONDS = 30.0
EVENTS_SECONDS = 120.0
PART_BYTES = 1 << 20
EVENTS_BYTES = 8 << 20  # after which another file of events begins


def open_writer(model_dir: str | os.PathLike[str]) -> MetricsWriter | StoredMetricsWriter:
  """Returns what writes metrics into a directory that exists, or a place on an object store."""
  if is_remote(model_dir):
    return StoredMetricsWriter(location(model_dir))
  return MetricsWriter(model_dir)


class StoredMetricsWriter:
  """Writes metrics to a MODEL_DIR on an object store; made by the one process that holds its lock."""

  def __init__(self, model_dir: Location):
    """Puts what earlier starts on this machine left in the spool, and starts the thread.

    Args:
      model_dir: MODEL_DIR.

    Raises:
      ConfigError: if this machine has no place for a spool.
      StorageError: if the store refuses or fails.
    """
    spool = _spool(model_dir)
    for left in sorted(spool.iterdir()):
      _Upload(left, model_dir).put(events=True)
      shutil.rmtree(left)
    folder = spool / f"{time.time_ns():020d}"
    folder.mkdir()
    self._local, self._upload = MetricsWriter(folder), _Upload(folder, model_dir)
    self._failed: SwitchT5Error | None = None
    self._closing = threading.Event()
    self._thread = threading.Thread(target=self._run, name="metrics_upload", daemon=True)
    self._thread.start()

  def write(
    self, step: int, metrics: Mapping[str, float], loads: Mapping[str, str] | None = None
  ) -> None:
    """Appends the metrics of a step.

    Args:
      step: steps done.
      metrics: by public name, e.g. `train/loss`.
      loads: see `MetricsWriter`.

    Raises:
      StorageError: if the thread could not put those before.
    """
    if self._failed is not None:
      raise self._failed
    self._local.write(step, metrics, loads)
    if self._upload.events_are_full:
      self._upload.events_are_full = False
      self._local.begin_events_file()

  def write_image(self, name: str, step: int, png: bytes) -> None:
    """Adds a picture to the events; see `MetricsWriter`."""
    self._local.write_image(name, step, png)

  def close(self) -> None:
    """Puts the rest; raises as `write` does."""
    self._closing.set()
    self._thread.join()
    self._local.close()
    if self._failed is not None:
      raise self._failed
    self._upload.put(events=True)
    shutil.rmtree(self._upload.folder)

  def _run(self) -> None:
    put_events = time.monotonic()
    while not self._closing.wait(UPLOAD_SECONDS):
      due = time.monotonic() - put_events >= EVENTS_SECONDS
      try:
        self._upload.put(events=due)
      except SwitchT5Error as error:
        self._failed = error
        return
      if due:
        put_events = time.monotonic()


class _Upload:
  """What one start has spooled, and how much of it is in MODEL_DIR."""

  def __init__(self, folder: Path, model_dir: Location):
    self.folder, self._model_dir = folder, model_dir
    self.events_are_full = False
    self._part, self._place, self._put = (
      0,
      0,
      0,
    )  # the part, where it begins, how much of it is there
    self._events: dict[str, int] = {}

  def put(self, *, events: bool) -> None:
    """Puts the lines that are new; with `events` also the files of events that have grown."""
    self._put_lines()
    if events:
      self._put_events()

  def _put_lines(self) -> None:
    try:
      with (self.folder / METRICS_FILE).open("rb") as file:
        file.seek(self._place)
        content = file.read()
    except FileNotFoundError:  # killed before it was made
      return
    content = content[: content.rfind(b"\n") + 1]
    while len(content) > self._put:
      end = content.find(b"\n", PART_BYTES) + 1 or len(content)
      name = f"part-{self.folder.name}-{self._part:05d}.jsonl"
      objects.write(self._model_dir / PARTS_DIRECTORY / name, content[:end])
      self._put = end
      if end < PART_BYTES:
        return
      self._part, self._place, self._put = self._part + 1, self._place + end, 0
      content = content[end:]

  def _put_events(self) -> None:
    for path in sorted((self.folder / EVENTS_DIRECTORY).glob("*")):
      size = path.stat().st_size
      if size > self._events.get(path.name, 0):
        name = f"{path.name}.{self.folder.name}"  # two starts in one second have one name
        objects.write(self._model_dir / EVENTS_DIRECTORY / name, path.read_bytes())
        self.events_are_full |= size > EVENTS_BYTES >= self._events.get(path.name, 0)
        self._events[path.name] = size


def _spool(model_dir: Location) -> Path:
  """Returns the folder on this machine for a MODEL_DIR; made if it is not there."""
  cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
  name = hashlib.sha256(str(model_dir).rstrip("/").encode()).hexdigest()[:16]
  folder = cache / "switch_t5" / "spool" / name
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise ConfigError(
      f"There is no place for metrics on this machine: {error.strerror}.",
      value=folder,
      rule="lines are written here, and put into MODEL_DIR from here",
      remedy="XDG_CACHE_HOME=FOLDER, one that may be written to",
    ) from error
  return folder
