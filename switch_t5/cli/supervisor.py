# SPDX-License-Identifier: Apache-2.0
"""A process of a run of several, under a parent that tells in one error why it was ended.

JAX's runtime notices that another process is lost, or never came, in a thread of its own, and aborts
there: with a page of its stack, and no exit code of ours. Only another process can tell it better. The
parent is forked before JAX is imported, costs a few MB, and ends with the child.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import NoReturn

from switch_t5.errors import PeerLostError

_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_PR_SET_PDEATHSIG = 1
_LOG_LINE = re.compile(r"[IWEF]\d{4} |\[Gloo\]")  # the first of a message of XLA's
_ABOUT_PEERS = re.compile(
  r"\[Gloo\]|[IWEF]\d{4} .* (coordination_\w+|preemption_sync_manager|client)\.\w+:"
)
_KEPT_LINES = 500
_DRAINING_SECONDS = 5.0
START_FACTOR = 5  # hosts of a pod come up minutes apart
# What JAX, its collectives and Orbax raise when a process does not answer.
_OF_CONNECTIONS = re.compile(
  r"UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED|[Gg]loo|NCCL|onnection|[Bb]arrier|ocket"
)
_AGAIN = "run all processes again: the same command goes on from the newest checkpoint"
_LAST = 3.0  # seconds by which process 0, which serves the others, leaves after them


class _Log:
  """What the child's C++ code logs: passed on, but for what it says of other processes."""

  def __init__(self, reader: int, show_all: bool):
    self.about_peers: list[str] = []
    self._reader, self._show_all = reader, show_all
    self._thread = threading.Thread(target=self._read, daemon=True)
    self._thread.start()

  def _read(self) -> None:
    of_peers = False
    with os.fdopen(self._reader, errors="replace") as lines:
      for line in lines:
        if _LOG_LINE.match(line):
          of_peers = _ABOUT_PEERS.match(line) is not None
        if of_peers:
          self.about_peers = [*self.about_peers[-_KEPT_LINES:], line]
        if not of_peers or self._show_all:
          sys.stderr.write(line)
          sys.stderr.flush()

  def text(self) -> str:
    """Returns what it said of other processes, once the child has ended."""
    self._thread.join(_DRAINING_SECONDS)  # a child of its own may still hold the pipe
    return "".join(self.about_peers)


def run(
  body: Callable[[], int], *, where: str, index: int | None, timeout: int, show_all: bool
) -> int:
  """Runs `body` in a child process and returns its exit code.

  Args:
    body: the rest of the program; what it returns is the exit code.
    where: the address of process 0, for errors.
    index: of this process; None if JAX is to find it.
    timeout: seconds without a sign of life after which a process is lost.
    show_all: also what the runtime logs of other processes.

  Raises:
    PeerLostError: if the runtime ended the child because of another process.
  """
  reader, writer = os.pipe()
  sys.stdout.flush()
  sys.stderr.flush()
  parent = os.getpid()
  signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)  # until both know what to do with them
  child = os.fork()
  if child == 0:
    os.close(reader)
    _become_child(parent, writer)
    _end(body, index)
  os.close(writer)
  log = _Log(reader, show_all)
  with _signals_passed_on(child):
    _, status = os.waitpid(child, 0)
  code = os.waitstatus_to_exitcode(status)
  said = log.text()
  if code == -signal.SIGABRT:
    if lost := explain(said, where, index, timeout):
      raise lost
    sys.stderr.write(said)  # an abort for another reason
  if code < 0:
    name = signal.Signals(-code).name
    print(f"switch_t5: the process was ended by {name}.", file=sys.stderr)
  return code if code >= 0 else 128 - code


def explain(said: str, where: str, index: int | None, timeout: int) -> PeerLostError | None:
  """Returns the error for what the runtime said before it aborted; None if it is of something else.

  Args:
    said: its messages about other processes.
    where: the address of process 0.
    index: see `run`.
    timeout: see `run`.
  """
  if "RegisterTask" in said:
    return PeerLostError(
      "The processes of the run did not come together.",
      value=f"process 0 at {where}, waited {START_FACTOR * timeout} s",
      rule="every process is started with the address of process 0 and the number of them all",
      remedy="check that process 0 runs, that this address is reached from here, and that as many "
      "processes were started as --process_count says; --peer_timeout=SECONDS waits longer",
    )
  unhealthy = re.search(r"unhealthy \(stopped sending heartbeats\):\n([\d\n, ]+)", said)
  if unhealthy:
    lost = ", ".join(sorted(set(re.findall(r"\d+", unhealthy[1])), key=int))
    return PeerLostError(
      "Another process of the run was lost.",
      value=f"process {lost}: no sign of life for {timeout} s",
      rule="a run goes on with all of its processes or not at all",
      remedy=f"its own log says why, if it could; {_AGAIN}",
    )
  if "JAX distributed service detected fatal errors" in said:
    return PeerLostError(
      "Another process of the run was lost." if index == 0 else "Process 0 of the run was lost.",
      value="it was started again, or lost touch" if index == 0 else f"{where} does not answer",
      rule="a run goes on with all of its processes or not at all",
      remedy=f"its own log says why, if it could; {_AGAIN}",
    )
  return None


@contextlib.contextmanager
def verdict_awaited(timeout: int) -> Iterator[None]:
  """Lets the runtime say first whether an error that a lost process may cause has that cause.

  If it has, the runtime ends this process before the error is seen.

  Args:
    timeout: see `run`.

  Raises:
    PeerLostError: if JAX's error is of a connection, and the runtime says nothing.
  """
  try:
    yield
  except Exception as error:
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__) is not None:
      chain.append(cause)
    if any(_OF_CONNECTIONS.search(str(link)) for link in chain):
      time.sleep(1.5 * timeout)
      if isinstance(error, RuntimeError):  # JAX's; ours have said what they are
        raise PeerLostError(
          "The processes of the run lost touch, and none is known to be lost.",
          value=str(error).partition("\n")[0][:300],
          rule="every process answers the others in time",
          remedy=_AGAIN,
        ) from error
    raise


def _become_child(parent: int, log: int) -> None:
  """Ends with the parent, gets signals from it alone, and writes its C++ log to it."""
  os.setpgid(0, 0)  # Ctrl-C reaches a group: the parent passes it on once
  with contextlib.suppress(AttributeError, OSError):  # Linux's
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
  if os.getppid() != parent:
    os._exit(128 + signal.SIGKILL)
  signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
  # Python's own messages and the progress bar go where they went.
  sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
  os.dup2(log, 2)
  os.close(log)


def _end(body: Callable[[], int], index: int | None) -> NoReturn:
  """Ends the child with what `body` returns: an error at once, the rest as JAX's processes part."""
  try:
    code = body()
  except Exception:
    traceback.print_exc()
    code = 1
  sys.stdout.flush()
  sys.stderr.flush()
  if code in (0, 75):  # so have all the others
    sys.exit(code)
  if index is None and (jax := sys.modules.get("jax")):
    index = jax.process_index()
  if index == 0:
    time.sleep(_LAST)
  # JAX's exit would wait for the others, and they for this process.
  os._exit(code)


@contextlib.contextmanager
def _signals_passed_on(child: int) -> Iterator[None]:
  """Gives the child what the parent is sent."""

  def pass_on(number: int, frame: object) -> None:
    with contextlib.suppress(ProcessLookupError):
      os.kill(child, number)

  before = {number: signal.signal(number, pass_on) for number in _PASSED_ON}
  signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
