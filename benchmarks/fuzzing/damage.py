# SPDX-License-Identifier: Apache-2.0
"""What happens to bytes and to files, whatever they mean."""

from __future__ import annotations

import os
import pathlib
import random
import shutil
from collections.abc import Callable

_SPARSE_BYTES = 3 << 30  # of a file that is made as long as this with nothing in it
_LONGEST = 64  # bytes of a stretch


def flip_a_bit(rng: random.Random, data: bytearray) -> bytes:
  """One bit of one byte."""
  data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
  return bytes(data)


def set_a_byte(rng: random.Random, data: bytearray) -> bytes:
  """One byte, of any value."""
  data[rng.randrange(len(data))] = rng.randrange(256)
  return bytes(data)


def zero_a_stretch(rng: random.Random, data: bytearray) -> bytes:
  """Zeros over up to 64 bytes."""
  begin, end = _stretch(rng, data)
  data[begin:end] = bytes(end - begin)
  return bytes(data)


def scramble_a_stretch(rng: random.Random, data: bytearray) -> bytes:
  """Anything over up to 64 bytes."""
  begin, end = _stretch(rng, data)
  data[begin:end] = rng.randbytes(end - begin)
  return bytes(data)


def truncate(rng: random.Random, data: bytearray) -> bytes:
  """Anything of the end is gone, perhaps all."""
  return bytes(data[: rng.choice((0, 1, len(data) // 2, len(data) - 1, rng.randrange(len(data))))])


def extend(rng: random.Random, data: bytearray) -> bytes:
  """More bytes at the end."""
  count = rng.choice((1, 4, 100, 5000))
  return bytes(data) + rng.choice((bytes(count), rng.randbytes(count), bytes(data)))


def insert(rng: random.Random, data: bytearray) -> bytes:
  """More bytes in between."""
  at = rng.randrange(len(data))
  return bytes(data[:at] + rng.randbytes(rng.randint(1, _LONGEST)) + data[at:])


def cut_out(rng: random.Random, data: bytearray) -> bytes:
  """Fewer bytes in between."""
  begin, end = _stretch(rng, data)
  return bytes(data[:begin] + data[end:])


def _stretch(rng: random.Random, data: bytearray) -> tuple[int, int]:
  begin = rng.randrange(len(data))
  return begin, min(len(data), begin + rng.randint(1, _LONGEST))


BYTES: dict[str, Callable[[random.Random, bytearray], bytes]] = {
  "flip a bit": flip_a_bit,
  "set a byte": set_a_byte,
  "zero a stretch": zero_a_stretch,
  "scramble a stretch": scramble_a_stretch,
  "truncate": truncate,
  "extend": extend,
  "insert bytes": insert,
  "cut bytes out": cut_out,
}


def delete(rng: random.Random, file: pathlib.Path, root: pathlib.Path, bait: pathlib.Path) -> None:
  """The file is gone."""
  file.unlink()


def delete_folder(rng, file, root, bait) -> None:
  """The file's folder is gone, or where that is all, the file."""
  shutil.rmtree(file.parent) if file.parent != root else file.unlink()


def duplicate(rng, file, root, bait) -> None:
  """There is one more, under a name that may mean something."""
  names = ("copy", "0", "1.0", "0.0.0", "checkpoint", "config.json", "_METADATA", "manifest.json")
  names += ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "a\x1b[2Jb")
  shutil.copy(file, file.with_name(rng.choice([name for name in names if name != file.name])))


def overwrite(rng, file, root, bait) -> None:
  """It has what another file has."""
  file.write_bytes(_another(rng, file, root).read_bytes())


def swap(rng, file, root, bait) -> None:
  """It changes places with another."""
  other = _another(rng, file, root)
  here, there = file.read_bytes(), other.read_bytes()
  file.write_bytes(there)
  other.write_bytes(here)


def link_out(rng, file, root, bait) -> None:
  """A link in its place, to the file that is there in the bait, or to the bait."""
  other = bait / file.relative_to(root)
  other = other if other.exists() else bait
  file.unlink()
  file.symlink_to(rng.choice((str(other), os.path.relpath(other, file.parent))))


def link_folder_out(rng, file, root, bait) -> None:
  """A link in place of its folder, to the folder that is there in the bait."""
  other = bait / file.parent.relative_to(root)
  if file.parent == root or not other.exists():
    link_out(rng, file, root, bait)
    return
  shutil.rmtree(file.parent)
  file.parent.symlink_to(rng.choice((str(other), os.path.relpath(other, file.parent.parent))))


def link_within(rng, file, root, bait) -> None:
  """A link in its place, to another file of the checkpoint, to itself, or to a device."""
  target = rng.choice((str(_another(rng, file, root)), str(file), "/dev/zero", "/dev/null"))
  file.unlink()
  file.symlink_to(target)


def move_behind_link(rng, file, root, bait) -> None:
  """A link to the same file under another name."""
  moved = file.with_name(f"{file.name}.moved")
  file.rename(moved)
  file.symlink_to(moved.name)


def make_folder(rng, file, root, bait) -> None:
  """A folder in its place."""
  content = file.read_bytes()
  file.unlink()
  file.mkdir()
  if rng.random() < 0.5:
    (file / file.name).write_bytes(content)


def make_pipe(rng, file, root, bait) -> None:
  """A pipe in its place, into which nobody writes."""
  file.unlink()
  os.mkfifo(file)


def make_sparse(rng, file, root, bait) -> None:
  """It goes on for 3 GiB of nothing."""
  os.truncate(file, _SPARSE_BYTES)


def add_folders(rng, file, root, bait) -> None:
  """Folders in folders beside it."""
  deep = file.parent
  for _ in range(rng.choice((1, 10, 300))):
    deep = deep / "d"
  deep.mkdir(parents=True, exist_ok=True)


def _another(rng: random.Random, file: pathlib.Path, root: pathlib.Path) -> pathlib.Path:
  """Returns another file, one of the same name and size if there is one half of the time."""
  others = [other for other in files_of(root) if other != file]
  alike = [
    other
    for other in others
    if other.name == file.name and other.stat().st_size == file.stat().st_size
  ]
  return rng.choice(alike if alike and rng.random() < 0.5 else others or [file])


def files_of(root: pathlib.Path) -> list[pathlib.Path]:
  """Returns all regular files below a folder, in an order of their names."""
  return sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())


FILES: dict[str, Callable[[random.Random, pathlib.Path, pathlib.Path, pathlib.Path], None]] = {
  "delete a file": delete,
  "delete a folder": delete_folder,
  "duplicate a file": duplicate,
  "overwrite a file": overwrite,
  "swap two files": swap,
  "link out": link_out,
  "link a folder out": link_folder_out,
  "link within": link_within,
  "move behind a link": move_behind_link,
  "folder for a file": make_folder,
  "pipe for a file": make_pipe,
  "file of 3 GiB": make_sparse,
  "folders in folders": add_folders,
}
OF_TWO = ("overwrite a file", "swap two files")  # which change nothing where both are the same
