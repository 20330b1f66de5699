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
  logger = logging.getLogger("absl")  # ours and Orbax's
  before = logger.handlers, logger.propagate
  logger.handlers, logger.propagate = [_Lines(logging.WARNING)], False
  try:
    yield
  finally:
    logger.handlers, logger.propagate = before
