# SPDX-License-Identifier: Apache-2.0
"""How Orbax writes a checkpoint of ours: arrays and texts, then the manifest, then the rename.

On an object store there is no rename: all is written in its final place, and the manifest, which is
put last, makes it a checkpoint.

Orbax's AsyncCheckpointer copies the arrays to the host, and in its saving thread waits until all
processes have written, lets process 0 merge their files and commits. Two of its extension points
are used: the handler writes the texts and hashes, the temporary path seals and renames. Orbax
itself then writes nothing after the manifest: its metadata store, which would, is switched off.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_args import register_with_handler
from orbax.checkpoint.future import ChainedFuture, Future

from switch_t5.checkpoint import manifest, orbax_stores
from switch_t5.storage import files, objects
from switch_t5.storage.files import fsync
from switch_t5.storage.location import Location, is_remote, location

# Commits a complete temporary directory to its final name; on an object store both are the same.
Commit = Callable[[Location, Location], None]


class StateHandler(ocp.PyTreeCheckpointHandler):
  """Writes a PyTree of arrays and some texts; each process hashes the arrays that it wrote."""

  async def async_save(self, directory: epath.Path, args: SaveState) -> list[Future]:
    """Starts to write; waiting for the result also hashes, in the thread that waits."""
    orbax_stores.prepare(directory)
    writes = await super().async_save(directory, args=args)
    path, process = location(directory), jax.process_index()

    def finish() -> None:
      if process == 0:
        for name, text in args.texts.items():
          manifest.write_file(path / name, text.encode())
      manifest.seal_process(path, process)

    return [ChainedFuture(writes or [], finish)]

  def restore(self, directory: epath.Path, *args: Any, **arguments: Any) -> Any:
    """Restores as Orbax does, from an object store too."""
    orbax_stores.prepare(directory)
    return super().restore(directory, *args, **arguments)


@register_with_handler(StateHandler, for_save=True)
@dataclasses.dataclass
class SaveState(ocp.args.PyTreeSave):
  """What StateHandler saves: `item`, a PyTree of arrays, and texts by file name."""

  texts: dict[str, str] = dataclasses.field(default_factory=dict)


@register_with_handler(StateHandler, for_restore=True)
@dataclasses.dataclass
class RestoreState(ocp.args.PyTreeRestore):
  """What StateHandler restores."""


class _CommittedPath(ocp.path.atomicity.AtomicRenameTemporaryPath):
  """A temporary directory that `commit` moves to its final name."""

  commit: Commit

  async def finalize(self) -> None:
    """Process 0, in the saving thread, after all processes have written."""
    self.commit(pathlib.Path(self.get()), pathlib.Path(self.get_final()))


class _MarkedPath(ocp.path.atomicity.CommitFileTemporaryPath):
  """A folder on an object store: the final one, marked as unfinished until `commit` is done."""

  commit: Commit

  async def create(self) -> epath.Path:
    """Process 0, before any process writes."""
    objects.write(self.get() / manifest.UNFINISHED, b"")
    return self.get()

  async def finalize(self) -> None:
    """Process 0, in the saving thread, after all processes have written."""
    self.commit(self.get(), self.get_final())


class StateCheckpointer(ocp.AsyncCheckpointer):
  """An AsyncCheckpointer of which the last step is `commit`.

  Args:
    commit: what process 0 does with a complete directory.
    handler: what writes; None: of arrays of JAX.
  """

  def __init__(self, commit: Commit, handler: StateHandler | None = None):
    super().__init__(
      handler or StateHandler(),
      # Made in the calling thread, an error is raised there.
      async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
      checkpoint_metadata_store=ocp.metadata.metadata_store(
        enable_write=False, blocking_write=True
      ),
      temporary_path_class=_CommittedPath,
    )
    self._commit = commit

  def get_temporary_path(self, directory: epath.Path) -> _CommittedPath | _MarkedPath:
    """Returns the temporary directory for `directory`."""
    path = super().get_temporary_path(directory)
    if is_remote(directory):
      path = _MarkedPath.from_final(directory)
    path.commit = self._commit
    return path


def read_text(path: Location) -> str:
  """Returns the text of a file."""
  return files.read(path).decode("utf-8")


def write_text_durably(path: Location, text: str) -> None:
  """Writes a file whole or not at all."""
  if is_remote(path):
    objects.write(path, text.encode())
    return
  path = pathlib.Path(path)
  temporary = path.with_name(f"{path.name}.tmp")
  temporary.write_text(text, encoding="utf-8")
  fsync(temporary)
  rename_durably(temporary, path)


def rename_durably(source: pathlib.Path, target: pathlib.Path) -> None:
  """Renames within one directory, so that a power cut does not undo it."""
  os.rename(source, target)
  fsync(target.parent)
