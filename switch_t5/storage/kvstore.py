# SPDX-License-Identifier: Apache-2.0
"""TensorStore's way to an object store: what Orbax writes with, and what can put on a condition."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

import tensorstore as ts

from switch_t5.storage import retries
from switch_t5.storage.location import Location
from switch_t5.storage.retries import SECONDS, failure, tensorstore_context

T = TypeVar("T")

Generation = bytes  # which write of an object; one that is not there has a generation too


def spec(path: str) -> dict[str, Any]:
  """Returns the driver and place of a gs:// or s3:// path, for TensorStore."""
  scheme, _, rest = path.partition("://")
  bucket, _, name = rest.partition("/")
  if scheme == "gs":
    return {
      "driver": os.environ.get("TENSORSTORE_GCS_BACKEND", "gcs"),
      "bucket": bucket,
      "path": name,
    }
  given: dict[str, Any] = {
    "endpoint": os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
    "aws_region": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
  }
  if "AWS_ACCESS_KEY_ID" in os.environ:  # else it looks for files first, and complains of each
    given["aws_credentials"] = {"type": "environment"}
  found = {name: value for name, value in given.items() if value}
  return {"driver": "s3", "bucket": bucket, "path": name, "use_conditional_write": True} | found


class ConditionalObject:
  """One object that is written only if it is still as it was when it was last seen.

  Args:
    path: of the object, gs:// or s3://.
    seconds: after which a request has failed, with all that TensorStore repeats of it.
  """

  def __init__(self, path: Location, *, seconds: float = SECONDS):
    self._path, self._seconds = path, seconds
    context = ts.Context(tensorstore_context())
    self._store = self._tried(lambda: ts.KvStore.open(spec(str(path)), context=context))

  def read(self) -> tuple[bytes | None, Generation]:
    """Returns its content, None if it is not there; and its generation."""
    found = self._tried(lambda: self._store.read(""))
    return (found.value if found.state == "value" else None), found.stamp.generation

  def write(self, content: bytes, seen: Generation) -> Generation | None:
    """Puts it if its generation is `seen`; returns the new one, or None if it was another.

    It can also be None after a put that was done, if the store's answer was lost.
    """
    return self._tried(lambda: self._store.write("", content, if_equal=seen)).generation or None

  def _tried(self, call: Callable[[], ts.Future[T]]) -> T:
    """Returns the result of a request, which TensorStore repeats under our limits."""
    started = time.monotonic()
    try:
      return call().result(timeout=self._seconds)
    except Exception as error:
      if isinstance(error, TimeoutError):
        error, attempts = TimeoutError("no answer in this time"), f"up to {retries.ATTEMPTS}"
      else:  # it says so if it has repeated the request
        attempts = str(retries.ATTEMPTS if "retry attempts" in str(error) else 1)
      raise failure(self._path, attempts, time.monotonic() - started, error) from error
