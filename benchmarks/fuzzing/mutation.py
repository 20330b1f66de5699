# SPDX-License-Identifier: Apache-2.0
"""One change to a copy of a checkpoint, drawn at random."""

from __future__ import annotations

import json
import os
import pathlib
import random
from typing import NamedTuple

from benchmarks.fuzzing import damage, documents
from benchmarks.fuzzing.pristine import SEALED_AGAIN, Variant, seal_again, sign_again
from switch_t5.checkpoint.manifest import MANIFEST
from switch_t5.interop import detect

BYTES, FILES, TREE, BOMB, DATABASE = "bytes", "files", "tree", "bomb", "database"
_SHARES = {BYTES: 35, FILES: 15, TREE: 40, BOMB: 10}
# Nothing reads these: they are left alone three times of four.
_UNREAD = ("generation_config.json", "commit_success.txt", "_CHECKPOINT_METADATA", "_sharding")
_UNREAD_OF_OURS = ("_METADATA", "data_state.json", "config.gin")
_NOT_SEALED = "file of 3 GiB"  # it would be hashed


class Mutation(NamedTuple):
  """What was done.

  Attributes:
    group: BYTES, FILES, TREE, BOMB or DATABASE.
    kind: what, in the group.
    file: to which file, relative to the checkpoint.
  """

  group: str
  kind: str
  file: str

  def __str__(self) -> str:
    return f"{self.kind} ({self.file})"


def mutate(rng: random.Random, variant: Variant, copy: pathlib.Path) -> Mutation:
  """Changes a copy of a checkpoint; there always is a change."""
  before = json.loads((copy / MANIFEST).read_bytes()) if (copy / MANIFEST).exists() else {}
  done = None
  while done is None:
    done = _try(rng, variant, copy)
  file = copy / done.file
  is_device = file.exists() and not file.is_file() and not file.is_dir()  # or a pipe
  if variant.form != SEALED_AGAIN or done.kind == _NOT_SEALED or is_device:
    return done
  if done.file == MANIFEST and done.group == TREE:
    sign_again(copy / MANIFEST)
  elif done.file != MANIFEST:
    try:
      seal_again(copy, before)
    except OSError:  # a link that leads nowhere
      return done
  return done


def _try(rng: random.Random, variant: Variant, copy: pathlib.Path) -> Mutation | None:
  """Returns what was done, or None if that is nothing."""
  files = damage.files_of(copy)
  described = [file for file in files if documents.is_described(file)]
  (group,) = rng.choices(list(_SHARES), list(_SHARES.values()))
  databases = list(documents.databases(copy))
  outside = _outside(rng, variant.bait, copy)
  if databases and group == TREE and rng.random() < 0.6:
    folder = rng.choice(databases)
    kind = documents.change_database(rng, folder, outside)
    return Mutation(DATABASE, kind, str(folder.relative_to(copy))) if kind else None
  file = rng.choice(described if group == TREE or rng.random() < 0.5 else files)
  unread = _UNREAD + _UNREAD_OF_OURS * (variant.format == detect.OWN)
  if file.name in unread and rng.random() < 0.75:
    return None
  name = str(file.relative_to(copy))
  kind: str | None
  if group == TREE:
    kind = documents.change_tree(rng, file, outside)
  elif group == BOMB:
    kind = documents.plant_bomb(rng, file)
  elif group == FILES:
    kind = rng.choice(list(damage.FILES))
    before = file.read_bytes()
    damage.FILES[kind](rng, file, copy, variant.bait)
    if kind in damage.OF_TWO and file.read_bytes() == before:
      return None
  else:
    kind = _change_bytes(rng, file)
  return Mutation(group, kind, name) if kind else None


def _change_bytes(rng: random.Random, file: pathlib.Path) -> str | None:
  data, kind = file.read_bytes(), rng.choice(list(damage.BYTES))
  changed = damage.BYTES[kind](rng, bytearray(data)) if data else data
  file.write_bytes(changed)
  return kind if changed != data else None


def _outside(rng: random.Random, bait: pathlib.Path, copy: pathlib.Path) -> str:
  """Returns a way to the bait: from the root, or from the copy or a folder in it."""
  within = rng.choice((copy, copy / "state", copy / "array"))
  return rng.choice((str(bait), os.path.relpath(bait, within)))
