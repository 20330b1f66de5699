# SPDX-License-Identifier: Apache-2.0
"""Logged metrics on disk: metrics.jsonl, one JSON object a line, and TensorBoard events.

Of a run on an object store, where nothing can be appended to, the lines are in `metrics/part-*.jsonl`
(see `stored`).

A number that is not finite is written as the string "NaN", "Infinity" or "-Infinity": JSON has no
such numbers, and null would not say which one it was. Python's float() reads these strings back.
"""

from __future__ import annotations

import concurrent.futures
import json
import logging
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from tensorboardX import SummaryWriter
from tensorboardX.proto.summary_pb2 import Summary

from switch_t5.errors import DataError
from switch_t5.metrics import expert_loads
from switch_t5.storage import objects
from switch_t5.storage.location import Location, is_remote, location

# It warns of every number that is not finite; a run that diverges says so itself.
logging.getLogger("tensorboardX.x2num").setLevel(logging.ERROR)

METRICS_FILE = "metrics.jsonl"
LOADS = "expert_loads"
PARTS_DIRECTORY = "metrics"
EVENTS_DIRECTORY = "events"
EVENTS_FLUSH_SECONDS = 10


class MetricsWriter:
  """Appends metrics to `model_dir`; made by one process of a run only.

  Every line is handed to the operating system when it is written, so a killed run loses none (of
  events, the last seconds). What a crash left of a line is cut off when the next run opens the file.
  """

  def __init__(self, model_dir: str | os.PathLike[str]):
    """Opens the files for appending.

    Args:
      model_dir: an existing directory.
    """
    directory = Path(model_dir)
    self._lines = (directory / METRICS_FILE).open("ab")
    _cut_torn_tail(directory / METRICS_FILE, self._lines)
    self._events_directory = directory / EVENTS_DIRECTORY
    self._events = self._open_events()

  def write(
    self, step: int, metrics: Mapping[str, float], loads: Mapping[str, str] | None = None
  ) -> None:
    """Appends the metrics of a step.

    Args:
      step: steps done.
      metrics: by public name, e.g. `train/loss`.
      loads: of the experts, by router, as `expert_loads.encode` writes them; they are no events.
    """
    row: dict[str, Any] = {"step": int(step)}
    row |= {name: _encode(value) for name, value in metrics.items()}
    if loads:
      row[LOADS] = dict(loads)
    self._lines.write(json.dumps(row, allow_nan=False).encode() + b"\n")
    self._lines.flush()
    for name, value in metrics.items():
      self._events.add_scalar(name, float(value), int(step))

  def write_image(self, name: str, step: int, png: bytes) -> None:
    """Adds a picture to the events, in place of none of the earlier ones.

    Args:
      name: of the picture.
      step: steps done.
      png: a PNG file's content.
    """
    height, width = (int.from_bytes(png[at : at + 4], "big") for at in (20, 16))
    image = Summary.Image(height=height, width=width, encoded_image_string=png)
    summary = Summary(value=[Summary.Value(tag=name, image=image)])
    self._events.file_writer.add_summary(summary, int(step))

  def begin_events_file(self) -> None:
    """Closes the file of events and begins another, with a later time in its name."""
    self._events.close()
    self._events = self._open_events()

  def _open_events(self) -> SummaryWriter:
    # A thread of its own writes events; the queue is long enough that a step never waits for it.
    return SummaryWriter(
      str(self._events_directory), max_queue=1000, flush_secs=EVENTS_FLUSH_SECONDS
    )

  def close(self) -> None:
    """Closes the files."""
    self._lines.close()
    self._events.close()


class Log(NamedTuple):
  """What a metrics.jsonl says.

  Attributes:
    lines: as they were written, steps that were repeated too.
    loads: by router and step, of each expert over the mean load; in the order of the lines.
  """

  lines: list[dict[str, float]]
  loads: dict[str, dict[int, list[float]]]


def read_log(path: str | os.PathLike[str]) -> Log:
  """Returns all that is in a metrics.jsonl.

  A line without its end, which a run is still writing or was killed at, is ignored.

  Args:
    path: of the file, `<MODEL_DIR>/metrics.jsonl`; of a run on an object store too, where it stands
      for all parts. None of them: no lines.

  Raises:
    DataError: if a line is not a JSON object with a step.
  """
  content = _content(location(path))
  log = Log([], {})
  for number, line in enumerate(content.split(b"\n")[:-1], start=1):
    try:
      row = json.loads(line)
      step, loads = int(row["step"]), row.pop(LOADS, {})
      log.lines.append({name: _decode(value) for name, value in row.items()})
      for router, text in loads.items():
        log.loads.setdefault(router, {})[step] = expert_loads.decode(text)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
      raise DataError(
        f"Line {number} of {path} is not a row of metrics.",
        value=line[:80].decode(errors="replace"),
        rule='each line is a JSON object with "step" and numbers',
        remedy="remove the line",
      ) from error
  return log


def read_lines(path: str | os.PathLike[str]) -> list[dict[str, float]]:
  """Returns the lines of a metrics.jsonl as they were written; see `read_log`."""
  return read_log(path).lines


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, float]]:
  """Returns the rows of a metrics.jsonl by step; see `read_log` and `by_step`."""
  return by_step(read_lines(path))


def by_step(lines: Iterable[Mapping[str, float]]) -> list[dict[str, float]]:
  """Returns one row for each step, in the order of steps.

  A resumed run writes some steps again, and evaluation may write a line of its own: of the lines of
  one step, the last that has a name gives its value.
  """
  rows: dict[int, dict[str, float]] = {}
  for line in lines:
    rows.setdefault(int(line["step"]), {}).update(line)
  return [rows[step] for step in sorted(rows)]


def _content(path: Location) -> bytes:
  """Returns the file, and the parts in their order: of each start of a run, its first to its last."""
  parts = path.parent / PARTS_DIRECTORY
  if is_remote(path):
    with concurrent.futures.ThreadPoolExecutor() as executor:
      contents = list(
        executor.map(lambda name: objects.read(parts / name), sorted(objects.sizes(parts)))
      )
  else:
    contents = [path.read_bytes()] if path.exists() else []
    contents += [part.read_bytes() for part in sorted(parts.glob("part-*.jsonl"))]
  return b"".join(content[: content.rfind(b"\n") + 1] for content in contents)


def _cut_torn_tail(path: Path, appender: BinaryIO) -> None:
  """Drops what follows the last end of line."""
  content = path.read_bytes()
  appender.truncate(content.rfind(b"\n") + 1)


def _encode(value: float) -> float | str:
  value = float(value)
  if math.isfinite(value):
    return value
  return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _decode(value: float | str) -> float:
  return float(value) if isinstance(value, str) else value
