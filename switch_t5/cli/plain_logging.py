# SPDX-License-Identifier: Apache-2.0
"""What is logged, as a user of the command line sees it."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

from tqdm import tqdm


class _Lines(logging.Handler):
  """Writes the message alone, above a progress bar if there is one."""

  def emit(self, record: logging.LogRecord) -> None:
    tqdm.write(record.getMessage(), file=sys.stderr)


@contextlib.contextmanager
def plain_logging(*, debug: bool) -> Iterator[None]:
  """Shows absl's log as plain lines on the standard error.

  Args:
    debug: also show what Orbax logs: its saving thread's tracebacks, of errors that are raised again.
  """
  logger = logging.getLogger("absl")
  handlers, propagate = logger.handlers, logger.propagate
  lines = _Lines(logging.WARNING)
  lines.addFilter(lambda record: debug or "/orbax/" not in record.pathname)
  logger.handlers, logger.propagate = [lines], False
  try:
    yield
  finally:
    logger.handlers, logger.propagate = handlers, propagate
