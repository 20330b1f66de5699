# SPDX-License-Identifier: Apache-2.0
"""Orbax on object stores: s3://, which it does not know (0.12), and our limits of retries.

Orbax makes TensorStore's specification of a checkpoint from its path, and knows gs:// only. Two of its
functions are replaced: by the same, with another driver at the bottom, and with limits of ours.
"""

from __future__ import annotations

import copy
import functools
import os
from typing import Any

import tensorstore as ts
from orbax.checkpoint._src.serialization import tensorstore_utils

from switch_t5.storage import kvstore
from switch_t5.storage.location import is_remote
from switch_t5.storage.retries import tensorstore_context


def prepare(directory: os.PathLike[str]) -> None:
  """Lets Orbax read and write a directory, if it is on an object store."""
  if is_remote(directory):
    _replace_functions()


@functools.cache
def _replace_functions() -> None:
  build, context = tensorstore_utils.build_kvstore_tspec, tensorstore_utils.get_ts_context

  @functools.wraps(build)
  def build_kvstore_tspec(directory: str, *args: Any, **arguments: Any) -> dict[str, Any]:
    if not directory.startswith("s3://"):
      return build(directory, *args, **arguments)
    made = build(directory.replace("s3://", "gs://", 1), *args, **arguments)
    return _on_s3(copy.deepcopy(made))

  @functools.wraps(context)
  def get_ts_context(**arguments: Any) -> ts.Context:
    made = context(**arguments).spec.to_json()
    return ts.Context(made | tensorstore_context())

  tensorstore_utils.build_kvstore_tspec = build_kvstore_tspec
  tensorstore_utils.get_ts_context = get_ts_context


def _on_s3(spec: Any) -> Any:
  """Returns a specification with S3's driver in place of Google's."""
  if isinstance(spec, dict) and spec.get("driver") == "gcs":
    return kvstore.spec(f"s3://{spec['bucket']}/{spec['path']}")
  if isinstance(spec, dict):
    return {name: _on_s3(value) for name, value in spec.items()}
  return spec
