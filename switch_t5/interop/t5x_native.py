# SPDX-License-Identifier: Apache-2.0
"""T5X's own format, version 3, and the older of its Orbax forms: read and written.

A step's folder has a msgpack file, `checkpoint`: the small arrays, and for each large one where it is,
a zarr folder beside the file. T5X says so by a TensorStore spec, the older Orbax by a string:

| | root | a large array |
|---|---|---|
| T5X | `{version: 3, optimizer: {target, state}}` | `{driver: zarr, kvstore: {driver, path}, metadata}` |
| older Orbax | `{target, state}` | `PLACEHOLDER://<folder>` |

A file with every array inline is a T5X checkpoint too.
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorstore as ts

from switch_t5.checkpoint.tree import nested
from switch_t5.errors import CheckpointError
from switch_t5.interop import untrusted, zarr
from switch_t5.interop.checkpoint import (
  PARAM_STATES,
  PARAMETERS,
  STEP,
  Progress,
  StoredArray,
  StoredCheckpoint,
)
from switch_t5.interop.msgpack_tree import read_tree, write_tree
from switch_t5.storage import files
from switch_t5.storage.location import Location

FILE = "checkpoint"
VERSION = 3
_OPTIMIZER = "optimizer/"
_PLACEHOLDER = "PLACEHOLDER://"
_KEPT = ("target", "state")
_LEFT_ASIDE = ("flax_mutables", "__save_format_metadata__", "__version__")
_SPEC = {"driver", "kvstore", "metadata"}
_BUCKET = "t5x-dummy-bucket"  # T5X's own, in place of where the checkpoint then was
_CHUNK_BYTES = 64 << 20
_CHUNKS_AT_ONCE = 4


def open_t5x(path: Location) -> StoredCheckpoint:
  """Opens a checkpoint of T5X.

  Args:
    path: a step's folder, or the msgpack file.

  Raises:
    CheckpointError: if it is of another version, has parts that are not here, or is not what it says.
  """
  file, names = path, []
  if not files.is_file(path):
    file, names = path / FILE, untrusted.walk(path)
  tree = read_tree(file)
  form = "T5X, Orbax of before OCDBT"
  if "version" in tree or "optimizer" in tree:
    form, tree = "T5X, native", _unwrapped(tree, file)
  notes = []
  for part, node in tree.items():
    if part not in _KEPT + _LEFT_ASIDE and node is not None:
      raise untrusted.refuse(file, f"it has {part[:80]}", rule="target, state and flax_mutables")
    if part in _LEFT_ASIDE and node not in ({}, None):
      notes.append(f"{part} is left aside.")
  folders: dict[str, str] = {}
  arrays = {}
  for name, leaf in _leaves({part: tree.get(part) for part in _KEPT}, ""):
    if leaf is not None:
      arrays[name] = _open_leaf(name, leaf, file, folders)
  if not any(name.startswith(PARAMETERS) for name in arrays):
    raise untrusted.refuse(file, "it has no parameters", rule="its target has at least one array")
  stored = {name.rpartition("/")[0] for name in names if name.endswith(f"/{zarr.METADATA}")}
  if unnamed := sorted(stored - folders.keys()):
    notes.append(f"{len(unnamed)} arrays that {FILE} does not name are left aside: {unnamed[0]}")
  return StoredCheckpoint(path, form, arrays, tuple(notes))


def write_t5x(checkpoint: StoredCheckpoint, directory: pathlib.Path, progress: Progress) -> None:
  """Writes a step's folder as T5X does, its msgpack file last.

  Parameters, and m and v where they are of the parameter's shape, are zarr folders; the rest is in
  the file. Without optimizer state it is what T5X saves of a model for inference.

  Args:
    checkpoint: its arrays keep their dtypes.
    directory: an empty folder.
    progress: see `checkpoint`.
  """
  leaves: dict[str, Any] = {}
  for name, array in checkpoint.arrays.items():
    if _is_folder(name, array, checkpoint.arrays):
      leaves[name] = _write_folder(directory, name.replace("/", "."), array)
      progress(name, array.nbytes)
    else:
      leaves[name] = array
  leaves.setdefault(STEP, StoredArray((), np.dtype(np.int32), lambda: np.zeros((), np.int32)))
  tree = nested({tuple(name.split("/")): leaf for name, leaf in leaves.items()})

  def told(name: str, size: int) -> None:
    progress(name.removeprefix(_OPTIMIZER), size)

  write_tree(directory / FILE, {"version": VERSION, "optimizer": tree}, told)


def choose_chunks(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
  """Returns T5X's chunks: the longest axis to its next divisor, until one has at most 64 MiB."""
  chunks = list(shape)
  while math.prod(chunks) * itemsize > _CHUNK_BYTES:
    axis = chunks.index(max(chunks))
    pieces = shape[axis] // chunks[axis] + 1
    while shape[axis] % pieces:
      pieces += 1
    chunks[axis] = shape[axis] // pieces
  return tuple(chunks)


def _unwrapped(tree: Mapping[str, Any], file: Location) -> dict[str, Any]:
  """Returns what is in T5X's wrapper."""
  version, optimizer = tree.get("version"), tree.get("optimizer")
  if version != VERSION or isinstance(version, bool | float):
    why = "version 2 has bfloat16 as uint16" if version == 2 else "others are not read"
    raise untrusted.refuse(
      file,
      f"version {str(version)[:80]}",
      rule=f"version {VERSION}: {why}",
      remedy="load and save it once with T5X",
    )
  if tree.keys() != {"version", "optimizer"} or not isinstance(optimizer, dict):
    raise untrusted.refuse(
      file, f"it has {', '.join(tree)[:80]}", rule="version, and optimizer with all arrays"
    )
  return optimizer


def _leaves(node: object, path: str) -> Iterator[tuple[str, object]]:
  """Yields the leaves by their path; a spec is one."""
  if isinstance(node, dict) and not node.keys() >= _SPEC:
    for key, child in node.items():
      yield from _leaves(child, f"{path}/{key}" if path else key)
  else:
    yield path, node


def _open_leaf(name: str, leaf: object, file: Location, folders: dict[str, str]) -> StoredArray:
  """Opens one array.

  Args:
    name: of the array.
    leaf: what stands in the file for it.
    file: the msgpack file, beside which folders lie.
    folders: the arrays' folders so far, each with the array's name; its own is added.
  """
  if isinstance(leaf, StoredArray):
    return leaf
  if isinstance(leaf, int) and not isinstance(leaf, bool) and abs(leaf) < 1 << 63:
    return StoredArray((), np.dtype(np.int64), lambda: np.asarray(leaf, np.int64))
  where = f"{file}: {name}"
  if isinstance(leaf, dict):
    relative = _path_of(leaf, where)
  elif isinstance(leaf, str) and leaf.startswith(_PLACEHOLDER):
    relative = leaf.removeprefix(_PLACEHOLDER)
  else:
    raise untrusted.refuse(where, f"{str(leaf)[:80]!r} in place of an array")
  place = untrusted.contained(file.parent, relative, where)
  relative = str(place.relative_to(file.parent))
  if relative in folders:
    raise untrusted.refuse(where, f"its folder {relative} is that of {folders[relative]} too")
  folders[relative] = name
  array = zarr.open_folder(place, where)
  if isinstance(leaf, dict):
    _check_agrees(leaf, array, where)
  return array


def _path_of(spec: Mapping[str, Any], name: str) -> object:
  """Returns the path in a spec, which says where the checkpoint once was: it is here now."""
  if other := spec.keys() - _SPEC - {"dtype", "path"}:
    raise untrusted.refuse(name, f"a TensorStore spec with {', '.join(sorted(other))[:80]}")
  if spec["driver"] != "zarr":
    raise _refuse_driver(name, f"the driver {str(spec['driver'])[:80]!r}")
  store = spec["kvstore"] if isinstance(spec["kvstore"], dict) else {"driver": spec["kvstore"]}
  driver, bucket = store.get("driver"), store.get("bucket")
  if (driver, bucket) not in (("file", None), ("gfile", None), ("gcs", _BUCKET)):
    where = f" with the bucket {str(bucket)[:80]!r}" if bucket is not None else ""
    raise _refuse_driver(name, f"the kvstore driver {str(driver)[:80]!r}{where}")
  if other := store.keys() - {"driver", "bucket", "path"}:
    raise untrusted.refuse(name, f"a kvstore with {', '.join(sorted(other))[:80]}")
  if "path" in store and "path" in spec:  # TensorStore before 0.1.14 had it there
    raise untrusted.refuse(name, "a TensorStore spec with two paths")
  return store.get("path", spec.get("path"))


def _refuse_driver(name: str, why: str) -> CheckpointError:
  return untrusted.refuse(
    name,
    why,
    rule="arrays are zarr folders in the checkpoint's own folder",
    remedy="copy the whole checkpoint to a local folder as T5X saved it",
  )


def _check_agrees(spec: Mapping[str, Any], array: StoredArray, name: str) -> None:
  """Refuses an array of another shape or dtype than its spec has."""
  metadata = spec["metadata"]
  if not isinstance(metadata, dict):
    raise untrusted.refuse(name, f"a TensorStore spec with the metadata {str(metadata)[:80]}")
  shape = metadata.get("shape", list(array.shape))
  dtypes = [part["dtype"] for part in (spec, metadata) if "dtype" in part]
  known = (array.dtype.name, array.dtype.str)
  if shape != list(array.shape) or any(dtype not in known for dtype in dtypes):
    stated = f"shape {shape}, dtype {', '.join(map(str, dtypes))}"
    raise untrusted.refuse(
      name, f"{array} in {zarr.METADATA}, {stated[:160]} in the spec", rule="they agree"
    )


def _is_folder(name: str, array: StoredArray, arrays: Mapping[str, StoredArray]) -> bool:
  """Returns whether T5X shards an array like its parameter, and so writes it as a folder."""
  if name.startswith(PARAMETERS):
    return True
  parameter, _, slot = name.removeprefix(PARAM_STATES).rpartition("/")
  of_parameter = arrays.get(PARAMETERS + parameter)
  return slot in ("m", "v") and of_parameter is not None and array.shape == of_parameter.shape


def _write_folder(directory: pathlib.Path, folder: str, array: StoredArray) -> dict[str, Any]:
  """Writes a zarr folder and returns its spec, with the path relative to the checkpoint."""
  chunks = choose_chunks(array.shape, array.dtype.itemsize)
  compressor = {"id": "gzip", "level": 1}
  metadata = {"shape": list(array.shape), "chunks": list(chunks), "compressor": compressor}
  spec = {"driver": "zarr", "dtype": array.dtype.name, "metadata": metadata}
  # Not brought to the disk file by file: the caller does that for the whole folder.
  here = {"driver": "file", "path": f"{directory.absolute() / folder}/", "file_io_sync": False}
  # Chunks of zeros too: where one is missing there is damage.
  whole = {"store_data_equal_to_fill_value": True}
  try:
    store = ts.open(spec | whole | {"kvstore": here}, create=True).result()
    values = array.read()
    for part in _parts(array.shape, chunks):
      store[part].write(values[part]).result()
  except (ValueError, OSError) as error:
    raise CheckpointError(
      "An array cannot be written.", value=f"{directory / folder}: {str(error)[:300]}"
    ) from error
  return spec | {"kvstore": {"driver": "file", "path": f"{folder}/"}}


def _parts(shape: tuple[int, ...], chunks: tuple[int, ...]) -> list[Any]:
  """Returns indices that cut an array along its first axis, into a few chunks each.

  TensorStore copies what it is given, and compresses as many chunks at once as there are cores.
  """
  if not shape:
    return [...]
  rows = _CHUNKS_AT_ONCE * chunks[0]
  return [slice(start, min(start + rows, shape[0])) for start in range(0, shape[0], rows)]
