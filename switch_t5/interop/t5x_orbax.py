# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of T5X as its later versions write them: through Orbax, `checkpoint_<step>/state/`.

The arrays are in an OCDBT database under the names of T5X's state dict, with `.` between the parts;
older ones have a folder for each array. `_METADATA` lists them.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import orbax.checkpoint as ocp

from switch_t5.checkpoint import tree
from switch_t5.interop import untrusted, zarr
from switch_t5.interop.checkpoint import PARAMETERS, Progress, StackedArray, StoredCheckpoint
from switch_t5.interop.orbax_stream import streaming_registry
from switch_t5.storage import files
from switch_t5.storage.location import Location

FORMAT = "T5X, Orbax"
METADATA = "_METADATA"
ITEM = "state"
_DATABASE = "manifest.ocdbt"


def open_t5x_orbax(path: Location) -> StoredCheckpoint:
  """Opens `checkpoint_<step>`, or the folder `state` in it.

  Raises:
    CheckpointError: if it is not complete or says what cannot be.
  """
  folder = path if files.exists(path / METADATA) else untrusted.contained(path, ITEM, path)
  untrusted.walk(folder)
  listed = dict(_listed(untrusted.read_json(folder / METADATA), folder / METADATA))
  if files.exists(folder / _DATABASE):
    stored = zarr.open_ocdbt(folder)
  else:
    stored = {
      name: zarr.open_folder(folder / name, f"{folder}: {name}")
      for name in files.names(folder)
      if files.exists(folder / name / zarr.METADATA)
    }
  wanted = {".".join(keys): "/".join(keys) for keys, is_array in listed.items() if is_array}
  for name in sorted(wanted.keys() ^ stored.keys()):
    why = "is missing" if name in wanted else f"is there, and {METADATA} does not list it"
    raise untrusted.refuse(folder, f"the array {name} {why}")
  arrays = {wanted[name]: stored[name] for name in sorted(stored)}
  kept = {name: array for name, array in arrays.items() if name.startswith((PARAMETERS, "state/"))}
  notes = []
  if aside := len(arrays) - len(kept):
    notes.append(f"{aside} arrays that are neither parameters nor the optimizer's are left aside.")
  return StoredCheckpoint(path, FORMAT, kept, tuple(notes))


def write_t5x_orbax(
  checkpoint: StoredCheckpoint, directory: pathlib.Path, progress: Progress
) -> None:
  """Writes `directory/state` as T5X's checkpoint manager does."""
  item = tree.nested(
    {
      tuple(name.split("/")): StackedArray(array.shape, (array,), False)
      for name, array in checkpoint.arrays.items()
    }
  )
  handler = ocp.PyTreeCheckpointHandler(type_handler_registry=streaming_registry(progress))
  # Folders are made before the arrays are written, which happens at once.
  options = ocp.AsyncOptions(create_directories_asynchronously=False)
  composite = ocp.CompositeCheckpointHandler(
    composite_options=ocp.CompositeOptions(async_options=options), **{ITEM: handler}
  )
  with ocp.AsyncCheckpointer(composite, async_options=options) as checkpointer:
    args = ocp.args.Composite(**{ITEM: ocp.args.PyTreeSave(item)})
    checkpointer.save(directory.absolute(), args=args, force=True)


def _listed(metadata: Mapping[str, Any], where: object) -> Iterator[tuple[tuple[str, ...], bool]]:
  """Yields the path of each leaf that `_METADATA` lists, and whether it is an array."""
  entries = metadata.get("tree_metadata")
  if not isinstance(entries, dict):
    raise untrusted.refuse(where, "it lists no arrays")
  for entry in entries.values():
    try:
      keys = tuple(part["key"] for part in entry["key_metadata"])
      kind = entry["value_metadata"]["value_type"]
    except (TypeError, KeyError) as error:
      raise untrusted.refuse(where, f"an entry without {error}") from error
    if not keys or not all(isinstance(key, str) and key for key in keys):
      raise untrusted.refuse(where, f"an entry with the path {str(keys)[:80]}")
    yield keys, kind not in ("None", "Dict", "List", "NamedTuple", "Tuple", "Empty")


def is_here(path: Location) -> bool:
  """Returns whether `path` looks like such a checkpoint."""
  return any(map(files.exists, (path / METADATA, path / ITEM / METADATA)))
