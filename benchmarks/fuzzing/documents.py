# SPDX-License-Identifier: Apache-2.0
"""The files of a checkpoint that describe it, taken apart and put together again with a change."""

from __future__ import annotations

import json
import pathlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import tensorstore as ts

from benchmarks.fuzzing import bombs
from benchmarks.fuzzing.damage import BYTES
from benchmarks.fuzzing.trees import HERE, TREES, places

_DATABASE = "manifest.ocdbt"
_JSON_NAMES = (".zarray", "_METADATA", "_sharding", "_CHECKPOINT_METADATA")
_PREFIX = 8  # bytes of the length of a safetensors header


class Inline(list):
  """An array within msgpack: its shape, dtype and bytes."""

  code = 1


def is_described(file: pathlib.Path) -> bool:
  """Returns whether a file is one of those that say what the others are."""
  return is_json(file) or file.name == "checkpoint" or file.suffix == ".safetensors"


def is_json(file: pathlib.Path) -> bool:
  """Returns whether a file is JSON."""
  return file.suffix == ".json" or file.name in _JSON_NAMES


def change_tree(rng: random.Random, file: pathlib.Path, outside: str) -> str | None:
  """Changes what a file describes; returns how, or None if it did not get to it."""
  kind = rng.choice(list(TREES))
  change = lambda tree: TREES[kind](rng, tree, outside)  # noqa: E731
  return kind if alter(file, change) else None


def plant_bomb(rng: random.Random, file: pathlib.Path) -> str | None:
  """Puts a bomb into a file, in place of any of its values; returns which one."""
  if file.name == "checkpoint":
    kind, raw = rng.choice(list(bombs.MSGPACK.items()))
  elif is_json(file) or file.suffix == ".safetensors":
    if file.suffix == ".safetensors" and rng.random() < 0.5:
      return bombs.lie_about_length(rng, file)
    kind, raw = rng.choice(list(bombs.JSON.items()))
  else:
    return bombs.plant_in_bytes(rng, file)

  def change(tree: Any) -> bool:
    rng.choice(list(places(tree))).put(HERE)
    return True

  return kind if alter(file, change, raw()) else None


def alter(file: pathlib.Path, change: Callable[[Any], bool], raw: bytes = b"") -> bool:
  """Puts a changed tree into a file.

  Args:
    file: described.
    change: of the tree, in place; returns whether there was something to change.
    raw: what stands in the file for HERE.
  """
  data = file.read_bytes()
  try:
    if file.name == "checkpoint":
      changed = _alter_msgpack(data, change, raw)
    elif file.suffix == ".safetensors":
      changed = _alter_header(data, change, raw)
    else:
      changed = _alter_json(data, change, raw)
  except OverflowError:  # no number of msgpack
    return False
  if changed == data:
    return False
  file.write_bytes(changed)
  return True


def _alter_json(data: bytes, change: Callable[[Any], bool], raw: bytes) -> bytes:
  tree = json.loads(data)
  if not change(tree):
    return data
  return json.dumps(tree).encode().replace(json.dumps(HERE).encode(), raw)


def _alter_header(data: bytes, change: Callable[[Any], bool], raw: bytes) -> bytes:
  length = int.from_bytes(data[:_PREFIX], "little")
  header = _alter_json(data[_PREFIX : _PREFIX + length], change, raw)
  return len(header).to_bytes(_PREFIX, "little") + header + data[_PREFIX + length :]


def _alter_msgpack(data: bytes, change: Callable[[Any], bool], raw: bytes) -> bytes:
  tree = msgpack.unpackb(data, ext_hook=_unpack_array)
  if not change(tree):
    return data
  return msgpack.packb(_packable(tree), unicode_errors="surrogatepass").replace(
    msgpack.packb(HERE), raw
  )


def _unpack_array(code: int, data: bytes) -> Inline:
  array = Inline(msgpack.unpackb(data))
  array.code = code
  return array


def _packable(node: Any) -> Any:
  if isinstance(node, Inline):
    content = msgpack.packb([_packable(item) for item in node], unicode_errors="surrogatepass")
    return msgpack.ExtType(node.code, content)
  if isinstance(node, dict):
    return {key: _packable(value) for key, value in node.items()}
  return [_packable(item) for item in node] if isinstance(node, list) else node


def databases(root: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields the folders of the databases that arrays are read from."""
  for folder in (root, root / "state"):
    if (folder / _DATABASE).exists():
      yield folder


def change_database(rng: random.Random, folder: pathlib.Path, outside: str) -> str | None:
  """Changes what stands under a key of a database, whose own checksums hold again after it."""
  base = {"driver": "file", "path": f"{folder}/", "file_io_sync": False}
  store = ts.KvStore.open({"driver": "ocdbt", "base": base}).result()
  keys = [key.decode() for key in store.list().result()]
  metadata = [key for key in keys if key.endswith(".zarray")]
  kind = rng.choice(("metadata", "metadata", "bytes", "remove", "copy", "move", "add", "bomb"))
  key = rng.choice(keys)
  value = bytes(store.read(key).result().value)
  if kind == "metadata":
    key = rng.choice(metadata)
    kind = rng.choice(list(TREES))
    old = bytes(store.read(key).result().value)
    store.write(key, _alter_json(old, lambda tree: TREES[kind](rng, tree, outside), b"")).result()
  elif kind == "bytes":
    kind = rng.choice(list(BYTES))
    store.write(key, BYTES[kind](rng, bytearray(value))).result()
  elif kind == "bomb":
    key = rng.choice([key for key in keys if not key.endswith(".zarray")])
    name, bomb = rng.choice(list(bombs.CHUNKS.items()))
    kind = f"bomb, {name}"
    store.write(key, bomb()).result()
  else:
    array, _, last = key.rpartition("/")
    other = rng.choice((rng.choice(keys), f"{array}/0.9", f"stray/{last}", "\ud800", "x" * 5000))
    other = rng.choice((other, f"../{array}/{last}", f"{outside}/{array}/{last}", "a\0/.zarray"))
    if kind in ("copy", "move", "add"):
      store.write(other.encode("utf-8", "replace"), b"stray" if kind == "add" else value).result()
    if kind in ("remove", "move") and other != key:
      store.write(key, None).result()
  return f"database: {kind}"
