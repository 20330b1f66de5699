# SPDX-License-Identifier: Apache-2.0
"""The parent of a process of several: exit codes, signals, and what it makes of an abort."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from switch_t5.cli import supervisor
from switch_t5.errors import PeerLostError

UNHEALTHY = """\
E1126 20:24:08.374743   19022 coordination_service_agent.cc:288] Polled an error from coordination \
service (this can be an error from this or another task).
F1126 20:24:08.374953   19022 client.h:86] Terminating process because the JAX distributed service \
detected fatal errors. absl::Status: UNAVAILABLE: The following tasks are unhealthy (stopped \
sending heartbeats):
{tasks}
The tasks have crashed. Check the task logs for an earlier error.
"""
GONE = """\
F1126 20:25:07.470248   20877 client.h:86] Terminating process because the JAX distributed service \
detected fatal errors. absl::Status: UNAVAILABLE: Socket closed
RPC: /xla.coordination.CoordinationService/PollForError
"""
NEVER_CAME = GONE.replace("PollForError", "RegisterTask")


def under_a_parent(body: str, **options: object) -> subprocess.Popen[str]:
  """Starts a program whose `body()` runs under a parent with a time-out of a second."""
  given = {"where": "host:1", "index": 1, "timeout": 1, "show_all": False} | options
  program = f"""
import os, signal, sys, time
from switch_t5.cli import supervisor
from switch_t5.errors import PeerLostError
def body():
{textwrap.indent(textwrap.dedent(body), "  ")}
try:
  sys.exit(supervisor.run(body, **{given!r}))
except PeerLostError as error:
  print(error)
  sys.exit(error.exit_code)
"""
  pipe = subprocess.PIPE
  return subprocess.Popen([sys.executable, "-c", program], stdout=pipe, stderr=pipe, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
  output, errors = process.communicate(timeout=60)
  return process.returncode, output, errors


@pytest.mark.parametrize("code", [0, 2, 75])
def test_the_exit_code_is_that_of_the_child(code):
  assert ended(under_a_parent(f"return {code}"))[0] == code


def test_an_error_that_is_not_ours_shows_its_traceback():
  code, _, errors = ended(under_a_parent("raise KeyError('a bug')"))
  assert code == 1
  assert "KeyError: 'a bug'" in errors


def test_an_abort_because_of_a_peer_is_told_in_one_error():
  code, output, errors = ended(
    under_a_parent(f"os.write(2, {UNHEALTHY.format(tasks=3)!r}.encode()); os.abort()")
  )
  assert code == 76
  assert "process 3: no sign of life for 1 s" in output
  assert errors == ""


def test_an_abort_for_another_reason_is_shown_whole():
  words = "F1126 20:24:08.374953   19022 client.cc:86] Check failed: out of ideas\nand more\n"
  code, _, errors = ended(under_a_parent(f"os.write(2, {words!r}.encode()); os.abort()"))
  assert code == 128 + signal.SIGABRT
  assert words in errors


def test_what_is_logged_of_other_things_is_passed_on_and_what_python_says_too():
  line = "W1126 20:24:08.374953   19022 compiler.cc:86] slow\n"
  body = f"os.write(2, {line!r}.encode()); print('here', file=sys.stderr); return 0"
  errors = ended(under_a_parent(body))[2]
  assert sorted(errors.splitlines()) == sorted([line.strip(), "here"])


def test_a_signal_reaches_the_child_once():
  body = """
  got = []
  signal.signal(signal.SIGTERM, lambda *_: got.append(1))
  print("ready", flush=True)
  while not got: time.sleep(0.01)
  time.sleep(0.2)
  return 75 if len(got) == 1 else 1
  """
  process = under_a_parent(body)
  assert process.stdout.readline() == "ready\n"
  process.send_signal(signal.SIGTERM)
  assert ended(process)[0] == 75


def test_the_child_dies_with_its_parent():
  process = under_a_parent("print(os.getpid(), flush=True); time.sleep(60); return 0")
  child = int(process.stdout.readline())
  process.kill()
  process.communicate()
  deadline = time.monotonic() + 10
  while os.path.exists(f"/proc/{child}") and time.monotonic() < deadline:
    time.sleep(0.05)
    try:  # the orphan may wait for whoever adopts it
      with open(f"/proc/{child}/stat", encoding="ascii") as stat:
        if stat.read().rpartition(")")[2].split()[0] == "Z":
          return
    except FileNotFoundError:
      return
  pytest.fail("It still runs.")


@pytest.mark.parametrize(
  ("said", "what"),
  [
    (UNHEALTHY.format(tasks="5\n11"), "process 5, 11: no sign of life for 7 s"),
    (GONE, "host:1 does not answer"),
    (NEVER_CAME, "process 0 at host:1, waited 35 s"),
  ],
)
def test_the_error_names_who_is_lost(said, what):
  error = supervisor.explain(said, "host:1", 1, 7)
  assert error is not None
  assert error.value == what


def test_an_error_of_connections_waits_for_the_runtimes_verdict():
  started = time.monotonic()
  with pytest.raises(PeerLostError, match="Gloo"), supervisor.verdict_awaited(1):
    raise RuntimeError("Gloo all-reduce failed: Connection closed by peer")
  assert time.monotonic() - started >= 1.5
  with pytest.raises(KeyError), supervisor.verdict_awaited(1000):
    raise KeyError("another thing")


def test_process_0_does_not_say_that_it_is_lost_itself():
  error = supervisor.explain(GONE, "host:1", 0, 7)
  assert error is not None
  assert error.what == "Another process of the run was lost."
