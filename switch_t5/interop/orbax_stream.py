# SPDX-License-Identifier: Apache-2.0
"""Arrays that Orbax writes while they are read, so that no model is in memory as a whole."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
import tensorstore as ts

from switch_t5.interop import zarr
from switch_t5.interop.checkpoint import Progress, StackedArray
from switch_t5.storage.location import location


def streaming_registry(progress: Progress) -> ocp.type_handlers.TypeHandlerRegistry:
  """Returns what makes Orbax write `StackedArray`s, one slice in memory at a time."""
  handler = _StreamingHandler(progress)
  return ocp.type_handlers.create_type_handler_registry(
    (jax.Array, ocp.type_handlers.ArrayHandler()),  # without it Orbax warns of one that is missing
    (StackedArray, handler),
  )


class _StreamingHandler(ocp.type_handlers.NumpyHandler):
  """Writes arrays into Orbax's OCDBT database while they are read.

  Args:
    progress: told of each array that is written.
  """

  def __init__(self, progress: Progress):
    super().__init__()
    self._progress = progress

  async def serialize(
    self,
    values: Sequence[StackedArray],
    infos: Sequence[ocp.type_handlers.ParamInfo],
    args: Sequence[ocp.SaveArgs] | None = None,
  ) -> Sequence[ocp.future.Future]:
    for value, info in zip(values, infos, strict=True):
      await info.await_path_creation()
      await asyncio.to_thread(self._write, value, info)
    return []

  def _write(self, value: StackedArray, info: ocp.type_handlers.ParamInfo) -> None:
    spec = {
      "driver": "zarr",
      "kvstore": {
        "driver": "ocdbt",
        "base": _unsynchronised(zarr.place(location(info.parent_dir) / "ocdbt.process_0")),
        "path": f"{info.name}/",
      },
      "dtype": value.dtype.name,
      "metadata": {
        "shape": list(value.shape),
        # A matrix each: what is read later, a layer or an expert, is whole chunks.
        "chunks": [1] * (len(value.shape) - 2) + list(value.shape[-2:]),
        "compressor": {"id": "zstd"},
      },
    }
    array = ts.open(ts.Spec(spec), create=True, open=True, context=info.ts_context).result()
    for index, piece in value.slices():
      array[index].write(piece).result()
    self._progress(str(info.name).replace(".", "/"), array.size * array.dtype.numpy_dtype.itemsize)


def _unsynchronised(place: dict[str, Any]) -> dict[str, Any]:
  """Whoever commits a folder brings it to the disk: not write by write."""
  return place | ({"file_io_sync": False} if place["driver"] == "file" else {})
