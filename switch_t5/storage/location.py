# SPDX-License-Identifier: Apache-2.0
"""A path of a file system or of an object store: gs:// (gcsfs) or s3:// (s3fs).

Credentials and addresses come from the libraries' own variables. Listings are never cached: another
process of the run writes beside this one.
"""

from __future__ import annotations

import importlib.util
import os
import pathlib
import re
from typing import TypeAlias

import fsspec
from etils import epath

from switch_t5.errors import ConfigError

# Else etils opens gs:// with TensorFlow wherever that is installed. It asks only once, at first use.
os.environ.setdefault("EPATH_USE_TF", "false")

Location: TypeAlias = pathlib.Path | epath.Path

_LIBRARIES = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}  # by scheme: module, extra of ours
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
  for name in {"gs": ("gs", "gcs"), "s3": ("s3",)}[scheme]:
    fsspec.config.conf.setdefault(name, {}).setdefault("use_listings_cache", False)
  return epath.Path(text)


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
