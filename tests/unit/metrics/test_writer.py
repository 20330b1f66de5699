# SPDX-License-Identifier: Apache-2.0
"""metrics.jsonl and TensorBoard events."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys

import pytest
from tensorboardX.proto import event_pb2

from switch_t5.errors import DataError
from switch_t5.metrics.writer import MetricsWriter, read_metrics


@pytest.fixture
def write(tmp_path):
  """Writes rows as one run does, from opening to closing."""

  def run(*rows):
    writer = MetricsWriter(tmp_path)
    for step, metrics in rows:
      writer.write(step, metrics)
    writer.close()

  return run


def test_a_line_is_a_json_object_with_step_first(tmp_path, write):
  write((10, {"train/loss": 5.5, "train/accuracy": 0.25}))
  assert (tmp_path / "metrics.jsonl").read_text() == (
    '{"step": 10, "train/loss": 5.5, "train/accuracy": 0.25}\n'
  )


def test_resumed_run_appends_and_the_last_value_of_a_repeated_step_wins(tmp_path, write):
  write((10, {"train/loss": 5.0}), (20, {"train/loss": 4.0}), (30, {"train/loss": 3.5}))
  write((20, {"train/loss": 4.5}), (20, {"eval/text/loss": 6.0}))
  assert read_metrics(tmp_path / "metrics.jsonl") == [
    {"step": 10, "train/loss": 5.0},
    {"step": 20, "train/loss": 4.5, "eval/text/loss": 6.0},
    {"step": 30, "train/loss": 3.5},
  ]


@pytest.mark.parametrize("tail", [b'{"step": 20, "tr', b'{"step": 20, "train/loss": 4.0}', b"{"])
def test_torn_tail_is_ignored_when_read_and_cut_when_appended_to(tmp_path, write, tail):
  path = tmp_path / "metrics.jsonl"
  write((10, {"train/loss": 5.0}))
  path.write_bytes(path.read_bytes() + tail)
  assert [row["step"] for row in read_metrics(path)] == [10]
  write((20, {"train/loss": 4.0}))
  assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [10, 20]


def test_file_of_nothing_but_a_torn_line_is_emptied(tmp_path, write):
  (tmp_path / "metrics.jsonl").write_bytes(b'{"step"')
  write()
  assert (tmp_path / "metrics.jsonl").read_bytes() == b""


def test_numbers_that_are_not_finite_survive_as_valid_json(tmp_path, write):
  write((1, {"a": float("nan"), "b": float("inf"), "c": float("-inf")}))
  line = (tmp_path / "metrics.jsonl").read_text()

  def refuse(name):
    raise AssertionError(f"{name} is not JSON")

  assert json.loads(line, parse_constant=refuse)["b"] == "Infinity"
  row = read_metrics(tmp_path / "metrics.jsonl")[0]
  assert math.isnan(row["a"]) and row["b"] == math.inf and row["c"] == -math.inf


@pytest.mark.parametrize(
  "line", ["not json", "[1]", '{"train/loss": 1.0}', '{"step": 1, "a": "b"}']
)
def test_malformed_line_is_named(tmp_path, write, line):
  write((1, {"a": 1.0}))
  path = tmp_path / "metrics.jsonl"
  path.write_text(path.read_text() + line + "\n")
  with pytest.raises(DataError, match="Line 2 of"):
    read_metrics(path)


def test_every_line_is_on_disk_when_the_process_is_killed(tmp_path):
  program = (
    "import os, signal, sys\n"
    "from switch_t5.metrics.writer import MetricsWriter\n"
    "writer = MetricsWriter(sys.argv[1])\n"
    "for step in range(1, 4): writer.write(step, {'train/loss': 1.0 / step})\n"
    "os.kill(os.getpid(), signal.SIGKILL)\n"
  )
  done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], env=os.environ, timeout=60)
  assert done.returncode == -signal.SIGKILL
  assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]


def read_events(model_dir):
  """Reads scalars: each record is a length (8 bytes), a checksum (4), the event, a checksum (4)."""
  scalars = []
  for path in sorted((model_dir / "events").iterdir()):
    content, at = path.read_bytes(), 0
    while at < len(content):
      length = int.from_bytes(content[at : at + 8], "little")
      event = event_pb2.Event.FromString(content[at + 12 : at + 12 + length])
      scalars += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
      at += 16 + length
  return scalars


def test_events_carry_the_public_names(tmp_path, write):
  write((10, {"train/loss": 5.5, "eval/text/accuracy": 0.25}))
  assert read_events(tmp_path) == [("train/loss", 10, 5.5), ("eval/text/accuracy", 10, 0.25)]


def test_tensorflow_is_not_imported():
  program = "import sys, switch_t5.metrics.writer; sys.exit('tensorflow' in sys.modules)"
  assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
