# SPDX-License-Identifier: Apache-2.0
"""Progress as lines, and as a bar on a pseudo-terminal."""

from __future__ import annotations

import contextlib
import io
import os
import re
import termios

from switch_t5.metrics.progress import Progress


def test_without_a_terminal_reports_are_lines():
  stream = io.StringIO()
  progress = Progress(1000, 190, stream)
  progress.step(195)
  progress.report(200, loss=5.12341, tokens_per_second=12345.4)
  progress.message("eval/text: cross_entropy 5.0")
  progress.report(1000, loss=4.0, tokens_per_second=999.6)
  progress.close()
  first, message, last = stream.getvalue().splitlines()
  assert re.fullmatch(r"step 200/1000  loss 5\.1234  tokens/s 12,345  ETA \d\d:\d\d", first)
  assert message == "eval/text: cross_entropy 5.0"
  assert last == "step 1000/1000  loss 4.0000  tokens/s 1,000  ETA 00:00"


def test_time_left_follows_the_pace_since_the_last_report(monkeypatch):
  clock = iter([0.0, 50.0, 51.0])  # ten slow steps (a compilation), then ten in a second
  monkeypatch.setattr("time.monotonic", lambda: next(clock))
  stream = io.StringIO()
  progress = Progress(1000, 0, stream)
  progress.report(10, loss=5.0, tokens_per_second=1.0)
  progress.report(20, loss=5.0, tokens_per_second=1.0)
  etas = re.findall(r"ETA (\S+)", stream.getvalue())
  assert etas == ["1:22:30", "01:38"]


def on_terminal(run, columns=100):
  """Returns the lines that `run(stream)` leaves on a pseudo-terminal."""
  master, slave = os.openpty()
  termios.tcsetwinsize(slave, (24, columns))
  with os.fdopen(slave, "w") as stream:
    run(stream)
  shown = b""
  with contextlib.suppress(OSError):  # the end of a terminal that nobody holds open
    while chunk := os.read(master, 4096):
      shown += chunk
  os.close(master)
  # A carriage return starts the line again, and blanks erase it: the last visible text counts.
  parts = [[part for part in line.split("\r") if part] for line in shown.decode().split("\n")]
  return [line[-1].rstrip() for line in parts if line and line[-1].strip()]


def test_on_a_terminal_a_message_stands_above_the_bar():
  def run(stream):
    progress = Progress(200, 50, stream)
    progress.report(100, loss=5.1234, tokens_per_second=12345.0)
    progress.message("Saved checkpoint_100.")
    progress.report(120, loss=5.0, tokens_per_second=12345.0)
    progress.close()

  message, bar = on_terminal(run)
  assert message == "Saved checkpoint_100."
  assert bar.startswith("step 120/200  60%|")
  assert re.search(r"\|  loss 5\.0000  tokens/s 12,345  ETA \d\d:\d\d$", bar)


def test_a_terminal_without_width_gets_lines():
  def run(stream):
    Progress(10, 0, stream).report(5, loss=1.0, tokens_per_second=2.0)

  (line,) = on_terminal(run, columns=0)
  assert line.startswith("step 5/10  loss 1.0000")
