# SPDX-License-Identifier: Apache-2.0
"""What is logged, as a user of the command line sees it."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

from tqdm import tqdm

_LOGGERS = ("absl", "asyncio")  # ours and Orbax's; what runs Orbax's saves


class _Lines(logging.Handler):
  """Writes the message alone, above a progress bar if there is one."""

  def emit(self, record: logging.LogRecord) -> None:
    tqdm.write(record.getMessage(), file=sys.stderr)


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
  lines, loggers = _Lines(logging.WARNING), [logging.getLogger(name) for name in _LOGGERS]
  lines.addFilter(lambda record: record.name != "asyncio")  # nothing but tracebacks
  before = [(logger.handlers, logger.propagate) for logger in loggers]
  for logger in loggers:
    logger.handlers, logger.propagate = [lines], False
  try:
    yield
  finally:
    for logger, (handlers, propagate) in zip(loggers, before, strict=True):
      logger.handlers, logger.propagate = handlers, propagate
