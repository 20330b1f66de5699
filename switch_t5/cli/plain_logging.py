# SPDX-License-Identifier: Apache-2.0
"""What is logged, as a user of the command line sees it."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

from tqdm import tqdm

# Orbax's, of a save that failed: the error is raised again, and told once, by the next step.
_TOLD_ANYWAY = ("_SignalingThread.run() raised an exception", "Handler Commit operations")


class _Lines(logging.Handler):
  """Writes the message alone, above a progress bar if there is one."""

  def emit(self, record: logging.LogRecord) -> None:
    message = record.getMessage()
    if not any(part in message for part in _TOLD_ANYWAY):
      tqdm.write(message, file=sys.stderr)


def _without_late_writes(unraisable: sys.UnraisableHookArgs) -> None:
  """Shows an exception that nobody can catch, unless it is TensorStore's: a write of a save that has
  failed already ends after all, and nobody waits for it.
  """
  error = unraisable.exc_value
  if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
    sys.__unraisablehook__(unraisable)


@contextlib.contextmanager
def plain_logging(*, debug: bool) -> Iterator[None]:
  """Shows warnings as plain lines on the standard error.

  Args:
    debug: leave the log as it is, tracebacks of saving threads included; their errors are raised
      again and told anyway.
  """
  if debug:
    yield
    return
  # Nothing but tracebacks of Orbax's tasks. It stays so: they are logged when the process ends.
  logging.getLogger("asyncio").setLevel(logging.CRITICAL)
  if sys.unraisablehook is sys.__unraisablehook__:  # pytest has its own
    sys.unraisablehook = _without_late_writes  # likewise
  logger = logging.getLogger("absl")  # ours and Orbax's
  before = logger.handlers, logger.propagate
  logger.handlers, logger.propagate = [_Lines(logging.WARNING)], False
  try:
    yield
  finally:
    logger.handlers, logger.propagate = before
