# SPDX-License-Identifier: Apache-2.0
"""How long a store that fails now and then is tried, before the run stops."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from switch_t5.errors import StorageError

ATTEMPTS = 8  # of one request of ours or TensorStore's; gcsfs and s3fs try each of ours some times
SECONDS = 120  # after which no attempt begins
FIRST_DELAY, LONGEST_DELAY = 0.5, 16.0  # seconds between attempts: each twice the one before

_PASSED_ON = (FileNotFoundError, FileExistsError, StorageError)
_OUR_MISTAKES = (AttributeError, TypeError, LookupError, NameError, ImportError, AssertionError)

T = TypeVar("T")


def retried(path: object, call: Callable[[], T]) -> T:
  """Returns what `call` returns; calls it again if the store fails.

  Args:
    path: the object, for the message.
    call: one request or few, which may be repeated.

  Raises:
    FileNotFoundError, FileExistsError: as `call` does.
    StorageError: if the store refuses, or has failed too often.
  """
  started = time.monotonic()
  for attempt in itertools.count(1):
    try:
      return call()
    except (*_PASSED_ON, *_OUR_MISTAKES):
      raise
    except Exception as error:  # each library has its own: few of them are OSError
      seconds = time.monotonic() - started
      if _is_refusal(error) or attempt >= ATTEMPTS or seconds > SECONDS:
        raise failure(path, attempt, seconds, error) from error
    delay = min(FIRST_DELAY * 2 ** (attempt - 1), LONGEST_DELAY)
    time.sleep(delay * random.uniform(0.5, 1.0))
  raise AssertionError


def failure(
  path: object, attempts: int | str, seconds: float, error: BaseException
) -> StorageError:
  """Returns the error that ends a run: the object, how often and how long it was tried."""
  if isinstance(error, StorageError):
    return error
  said = " ".join(str(error).split())[:300] or type(error).__name__
  refused = _is_refusal(error)
  return StorageError(
    "The object store refuses." if refused else "The object store fails.",
    value=path,
    rule=f"tried {attempts} times in {seconds:.0f} s; the last time: {said}",
    remedy="see to the credentials and to the rights on the bucket"
    if refused
    else "once the store answers, the same command goes on from the newest checkpoint",
  )


def tensorstore_context() -> dict[str, Any]:
  """Returns the same limits for TensorStore's own requests."""
  limits = {
    "max_retries": ATTEMPTS,
    "initial_delay": f"{FIRST_DELAY}s",
    "max_delay": f"{LONGEST_DELAY}s",
  }
  return {"gcs_request_retries": limits, "s3_request_retries": limits}


def _is_refusal(error: BaseException) -> bool:
  """Returns whether to ask again would be no use."""
  code = getattr(error, "code", None)
  return (
    isinstance(error, PermissionError)
    or str(error).startswith("Forbidden")  # gcsfs's
    or "Credential" in type(error).__name__  # botocore's
    or (isinstance(code, int) and 400 <= code < 500 and code not in (408, 429))
  )
