# SPDX-License-Identifier: Apache-2.0
"""scripts/launch/restart.sh, with a command that ends as a list of exit codes says."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import runs

RESTART = runs.ROOT / "scripts" / "launch" / "restart.sh"
# Ends with the next of its arguments at each start; those above 128 by the signal itself.
ENDS = """\
echo start >> starts
codes=("$@")
code=${codes[$(wc -l < starts) - 1]}
if [ "$code" -gt 128 ]; then kill -s $((code - 128)) $$; fi
exit "$code"
"""
# Runs until a signal comes, and says which.
WAITS = """\
for name in TERM INT; do trap "echo $name >> signals; sleep 0.2; exit 75" "$name"; done
echo start >> starts
for i in $(seq 600); do sleep 0.05; done
"""
# Bash cannot trap what was ignored when it started, as Ctrl-C is below a shell's background job.
LISTENING = (
  sys.executable,
  "-c",
  "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL);"
  "os.execvp(sys.argv[1], sys.argv[1:])",
)


@pytest.fixture
def start(tmp_path):
  """Returns a function that starts restart.sh with a script in tmp_path; ends what is left."""
  processes = []

  def run(script: str, *arguments: object, **variables: object) -> subprocess.Popen[str]:
    (tmp_path / "command.sh").write_text(script)
    given = {f"RESTART_{name.upper()}": str(value) for name, value in variables.items()}
    processes.append(
      subprocess.Popen(
        [*LISTENING, "bash", str(RESTART), "bash", "command.sh", *map(str, arguments)],
        cwd=tmp_path,
        env=os.environ | {"RESTART_PAUSE": "0"} | given,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
      )
    )
    return processes[-1]

  yield run
  for process in processes:
    process.kill()
    process.wait()
    process.stderr.close()  # not read to its end: a command that is left may hold the other


def lines(file: pathlib.Path) -> list[str]:
  return file.read_text().split() if file.exists() else []


def wait_for(file: pathlib.Path) -> None:
  deadline = time.monotonic() + 30
  while not lines(file):
    assert time.monotonic() < deadline, file
    time.sleep(0.01)


def test_a_run_that_was_stopped_or_aborted_or_lost_a_peer_goes_on(start, tmp_path):
  process = start(ENDS, 75, 76, 134, 137, 139, 143, 0, limit=10)
  assert process.wait(30) == 0
  assert len(lines(tmp_path / "starts")) == 7


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 130])
def test_what_cannot_go_on_is_not_started_again(start, tmp_path, code):
  assert start(ENDS, code, 0).wait(30) == code
  assert len(lines(tmp_path / "starts")) == 1


def test_codes_that_are_started_again_can_be_chosen(start, tmp_path):
  assert start(ENDS, 76, 75, 0, on="76").wait(30) == 75
  assert len(lines(tmp_path / "starts")) == 2


def test_it_gives_up_after_quick_failures_in_a_row(start, tmp_path):
  process = start(ENDS, *[76] * 9, limit=3)
  assert process.wait(30) == 76
  assert "3 quick failures in a row" in process.stderr.read()
  assert len(lines(tmp_path / "starts")) == 3


def test_failures_of_runs_that_lasted_are_not_counted(start, tmp_path):
  assert start(ENDS, *[76] * 5, 0, limit=3, quick=0).wait(30) == 0


@pytest.mark.parametrize("name", ["TERM", "INT"])
def test_a_signal_reaches_the_command_once_and_nothing_is_started_again(start, tmp_path, name):
  process = start(WAITS)
  wait_for(tmp_path / "starts")
  os.killpg(process.pid, signal.Signals[f"SIG{name}"])  # as a terminal does
  assert process.wait(30) == 75
  assert lines(tmp_path / "signals") == [name]
  assert len(lines(tmp_path / "starts")) == 1


def test_a_signal_between_two_runs_ends_it_at_once(start, tmp_path):
  process = start(ENDS, 76, 0, pause=60)
  wait_for(tmp_path / "starts")
  assert "again in 60 s" in process.stderr.readline()
  process.terminate()
  assert process.wait(30) == 76
