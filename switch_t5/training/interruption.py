# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and SIGTERM: finish the step, save, leave. A second Ctrl-C leaves at once."""

from __future__ import annotations

import signal
import types

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils


class Interruption:
  """Notes a signal for the loop to see between two steps.

  Use it as a context manager, after `jax.distributed.initialize`, which installs handlers of its own.
  """

  def __init__(self):
    self._received: int | None = None
    self._previous: dict[int, object] = {}

  def __enter__(self) -> Interruption:
    for number in (signal.SIGINT, signal.SIGTERM):
      self._previous[number] = signal.signal(number, self._handle)
    return self

  def __exit__(self, *exc_info) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)  # type: ignore[arg-type]

  def _handle(self, number: int, frame: types.FrameType | None) -> None:
    if self._received is not None and number == signal.SIGINT:
      raise KeyboardInterrupt
    self._received = number
    logging.warning(
      "%s: saving after this step; Ctrl-C again leaves without saving.", self.signal_name
    )

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
