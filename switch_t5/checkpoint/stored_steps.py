# SPDX-License-Identifier: Apache-2.0
"""Checkpoints on an object store, where nothing can be renamed.

A folder `checkpoint_<step>` is a checkpoint from the moment that its manifest is put until the manifest
is deleted. While it is none, `UNFINISHED` says that it is one of ours, which the next save may delete:
what has neither was put there by someone else.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterable

from absl import logging

from switch_t5.checkpoint.listing import begun_steps, step_path
from switch_t5.checkpoint.manifest import MANIFEST, UNFINISHED
from switch_t5.storage import objects
from switch_t5.storage.location import Location

_REQUESTS = 16  # side by side


def unmark(path: Location) -> None:
  """Says that a checkpoint is finished; its manifest has said so already."""
  objects.delete(path / UNFINISHED)


def remove_unfinished(directory: Location) -> None:
  """Deletes what killed runs began to save, or to delete."""
  for step in begun_steps(directory):
    path = step_path(directory, step)
    if objects.exists(path / MANIFEST) or not objects.exists(path / UNFINISHED):
      continue
    logging.info("Removing %s, left behind by a run that was killed.", path)
    delete(path)


def delete(path: Location) -> None:
  """Deletes a checkpoint; one that is deleted half-way is none, and the next save ends it."""
  objects.write(path / UNFINISHED, b"")
  objects.delete(path / MANIFEST)
  rest = objects.sizes(path).keys() - {UNFINISHED}
  _for_each(lambda name: objects.delete(path / name), rest)
  objects.delete(path / UNFINISHED)


def move(path: Location, target: Location) -> None:
  """Copies a checkpoint within the store, its manifest last; then deletes it."""
  if objects.exists(target):
    delete(target)
  rest = objects.sizes(path).keys() - {MANIFEST, UNFINISHED}
  _for_each(lambda name: objects.copy(path / name, target / name), rest)
  objects.copy(path / MANIFEST, target / MANIFEST)
  delete(path)


def _for_each(call: Callable[[str], None], names: Iterable[str]) -> None:
  with concurrent.futures.ThreadPoolExecutor(_REQUESTS) as executor:
    list(executor.map(call, names))
