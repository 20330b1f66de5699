# SPDX-License-Identifier: Apache-2.0
"""A path of a file system or of an object store: gs:// (gcsfs) or s3:// (s3fs).

Credentials and addresses come from the libraries' own variables. Listings are never cached: another
process of the run writes beside this one.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import pathlib
import re
from typing import Any, TypeAlias

import fsspec
from etils import epath

from switch_t5.errors import ConfigError

# Else etils opens gs:// with TensorFlow wherever that is installed. It asks only once, at first use.
os.environ.setdefault("EPATH_USE_TF", "false")
# Else TensorStore waits without end for a store that has taken a request and says nothing.
for _name, _value in {
  "TENSORSTORE_CURL_CONNECT_TIMEOUT_SECONDS": "30",
  "TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS": "60",
  "TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES": "1",
}.items():
  os.environ.setdefault(_name, _value)

Location: TypeAlias = pathlib.Path | epath.Path

_LIBRARIES = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}  # by scheme: module, extra of ours
_SILENCE = 120  # seconds that a request to a store may take, or be without an answer
_SETTINGS: dict[str, dict[str, Any]] = {
  "gs": {"requests_timeout": _SILENCE},
  "s3": {
    "config_kwargs": {
      "connect_timeout": 30,
      "read_timeout": _SILENCE,
      "retries": {"max_attempts": 1},
    }
  },
}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/")


def is_remote(path: str | os.PathLike[str]) -> bool:
  """Returns whether a path is on an object store: gs:// or s3://."""
  return os.fspath(path).startswith(tuple(f"{scheme}://" for scheme in _LIBRARIES))


def location(path: str | os.PathLike[str]) -> Location:
  """Returns a path to read and write with: pathlib's, or for an object store one alike.

  Args:
    path: of a file system, gs://bucket/... or s3://bucket/...

  Raises:
    ConfigError: if it is of another kind of store, or the library for its store is not installed.
  """
  text = os.fspath(path)
  if not is_remote(path):
    _refuse_other_schemes(text)
    return pathlib.Path(path)
  scheme, _, rest = text.partition("://")
  if not rest.strip("/"):
    raise ConfigError("The path names no bucket.", value=text, rule=f"{scheme}://bucket/folder")
  module, extra = _LIBRARIES[scheme]
  if importlib.util.find_spec(module) is None:
    raise ConfigError(
      f"{module} is not installed.",
      value=text,
      rule=f"{scheme}:// is read and written with it",
      remedy=f"pip install 'switch_t5[{extra}]'",
    )
  _configure(scheme)
  return epath.Path(text)


def on_disk(path: str | os.PathLike[str], name: str) -> pathlib.Path:
  """Returns a path of a file system.

  Args:
    path: as the user gave it.
    name: what it is to the user, for the message.

  Raises:
    ConfigError: if it is on an object store.
  """
  found = location(path)
  if is_remote(found):
    raise ConfigError(
      f"{name} is not on a file system.",
      value=path,
      rule="files are written there one by one, and read again",
      remedy="a folder here, which is copied afterwards; or a bucket mounted as a file system",
    )
  return pathlib.Path(found)


@functools.cache
def _configure(scheme: str) -> None:
  """Sets what the client of a store does, where the user's own fsspec configuration says nothing."""
  for name in ("gs", "gcs") if scheme == "gs" else ("s3",):
    settings = fsspec.config.conf.setdefault(name, {})
    for key, value in ({"use_listings_cache": False} | _SETTINGS[scheme]).items():
      settings.setdefault(key, value)
  # Its tracebacks of requests that failed: what matters is raised again.
  logging.getLogger("gcsfs").setLevel(logging.CRITICAL)


def _refuse_other_schemes(text: str) -> None:
  found = _SCHEME.match(text)
  if found is None:
    return
  known = " or ".join(f"{scheme}://" for scheme in _LIBRARIES)
  raise ConfigError(
    "There is no storage of this kind.",
    value=text,
    rule=f"a path of a file system, or {known} and then a bucket",
    remedy=f"{found[1]}://{text[found.end() :].lstrip('/')}"
    if found[1] in _LIBRARIES
    else "mount it as a file system",
  )
