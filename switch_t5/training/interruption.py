# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and SIGTERM: finish the step, save, leave. A second Ctrl-C leaves at once."""

from __future__ import annotations

import signal
import socket
import threading
import types

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
  """Notes a signal for the loop to see between two steps.

  Use it as a context manager, after `jax.distributed.initialize`, which installs handlers of its own.
  Python's handlers do not run while XLA compiles, for a minute perhaps; a thread answers at once.
  """

  def __init__(self):
    self._received: int | None = None
    self._previous: dict[int, object] = {}

  def __enter__(self) -> Interruption:
    reader, self._writer = socket.socketpair()
    self._writer.setblocking(False)
    self._thread = threading.Thread(target=_answer, args=(reader,), daemon=True)
    self._thread.start()
    self._previous_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
    for number in _SIGNALS:
      self._previous[number] = signal.signal(number, self._handle)
    return self

  def __exit__(self, *exc_info) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)  # type: ignore[arg-type]
    signal.set_wakeup_fd(self._previous_fd)
    self._writer.close()
    self._thread.join()

  def _handle(self, number: int, frame: types.FrameType | None) -> None:
    if self._received is not None and number == signal.SIGINT:
      raise KeyboardInterrupt
    self._received = number

  @property
  def signal_name(self) -> str:
    """The name of the signal received, or an empty string."""
    return "" if self._received is None else signal.Signals(self._received).name

  def requested(self, *, may_communicate: bool) -> bool:
    """Whether to stop now; the same answer in every process.

    Args:
      may_communicate: all processes call with True at the same steps. With several processes a stop
        is agreed on at those steps only.
    """
    if jax.process_count() == 1:
      return self._received is not None
    if not may_communicate:
      return False
    flags = multihost_utils.process_allgather(np.asarray(self._received is not None))
    return bool(np.any(flags))


def _answer(reader: socket.socket) -> None:
  """Tells the user of the first signal; ends when the other end is closed."""
  with reader:
    told = False
    while number := reader.recv(1):
      if number[0] in _SIGNALS and not told:
        told = True
        name = signal.Signals(number[0]).name
        logging.warning("%s: saving after this step; Ctrl-C again leaves without saving.", name)
