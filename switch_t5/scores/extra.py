# SPDX-License-Identifier: Apache-2.0
"""Libraries of metrics, which the extra `scores` brings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from switch_t5 import errors


@contextlib.contextmanager
def needed(package: str) -> Iterator[None]:
  """Imports inside say which package is missing, and what installs it.

  Raises:
    ConfigError: a library is not installed.
  """
  try:
    yield
  except ModuleNotFoundError as error:
    raise errors.ConfigError(
      "A metric's library is not installed.",
      value=f"{package} ({error})",
      rule="metrics of GLUE, summaries and translations need the extra `scores`",
      remedy="pip install 'switch_t5[scores]'",
    ) from error
