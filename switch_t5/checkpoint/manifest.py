# SPDX-License-Identifier: Apache-2.0
"""The manifest of a checkpoint: size and SHA-256 of every file, written before the commit.

A checkpoint is a directory. Its manifest, `manifest.json`, lists every other file in it, describes
the arrays that were saved, and carries a checksum of itself. The rename that commits a checkpoint
comes after the manifest, so a committed checkpoint always has one.

Each process hashes the files that it wrote (`seal_process`), then process 0 the rest, and merges
(`seal`). Needs no JAX: any process can verify a checkpoint, also while its run goes on.

On an object store there is no rename: the manifest, put last, is itself the commit. What is hashed
there is read back from the store. `UNFINISHED` says that a folder without a manifest is ours.
"""

from __future__ import annotations

import concurrent.futures
import datetime
import hashlib
import json
import os
import pathlib
import stat
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from switch_t5.checkpoint import json_limits
from switch_t5.storage import files as storage
from switch_t5.storage import objects
from switch_t5.storage.files import fsync
from switch_t5.storage.location import Location, is_remote

MANIFEST = "manifest.json"
UNFINISHED = (
  "unfinished"  # on an object store, from before the first array until after the manifest
)
_FORMAT = 1
_VERIFYING_THREADS = 4  # hashlib releases the GIL; more saturate few disks


class FileProblem(NamedTuple):
  """What is wrong with one file of a checkpoint.

  Attributes:
    file: the path within the checkpoint.
    kind: missing, extra, size, changed or unreadable.
    detail: a phrase for the user.
  """

  file: str
  kind: str
  detail: str

  def __str__(self) -> str:
    return f"{self.file}: {self.detail}"


class FileEntry(NamedTuple):
  """Size in bytes and SHA-256 (hexadecimal) of a file."""

  bytes: int
  sha256: str


class Manifest(NamedTuple):
  """What a committed checkpoint holds.

  Attributes:
    step: the training step that was saved.
    committed: when, ISO 8601, UTC.
    state: the type of each array by its path in the state, e.g. `float32[512,64]`.
    files: all files but the manifest, by their path within the checkpoint.
  """

  step: int
  committed: str
  state: dict[str, str]
  files: dict[str, FileEntry]


def seal_process(directory: Location, process: int) -> None:
  """Hashes the array files that `process` wrote; `seal` collects what it found."""
  own = f"ocdbt.process_{process}/"
  entries = {
    file: _hash_durably(directory / file, size)
    for file, size in _walk(directory)
    if file.startswith(own)
  }
  write_file(directory / _partial(process), json.dumps(entries).encode())


def seal(directory: Location, step: int, state: dict[str, str], processes: int) -> None:
  """Writes the manifest; process 0 calls it after all processes have written all else.

  Args:
    directory: the checkpoint, not yet committed.
    step: the training step.
    state: see `Manifest`.
    processes: how many called `seal_process`.
  """
  entries: dict[str, FileEntry] = {}
  for process in range(processes):
    path = directory / _partial(process)
    try:
      part = json.loads(storage.read(path))
    except FileNotFoundError as error:
      raise FileNotFoundError(
        f"process {process} wrote its part elsewhere; all processes must share this directory"
      ) from error
    entries |= {file: FileEntry(*entry) for file, entry in part.items()}
    storage.remove(path)
  for file, size in _walk(directory):
    if file not in entries and file != UNFINISHED:
      entries[file] = _hash_durably(directory / file, size)
  committed = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
  write_file(directory / MANIFEST, _render(Manifest(step, committed, state, entries)))
  if not is_remote(directory):
    fsync(directory / MANIFEST)
    fsync(pathlib.Path(directory))


def write_file(path: Location, content: bytes) -> None:
  """Writes a file; on an object store it is there whole or not at all."""
  if is_remote(path):
    objects.write(path, content)
  else:
    path.write_bytes(content)


def read_manifest(directory: Location) -> Manifest | FileProblem:
  """Returns the manifest, or what is wrong with it."""
  path = directory / MANIFEST
  try:
    if is_remote(path):
      raw = objects.read(path)
    elif path.exists() and not path.is_file():  # a pipe would be waited for without end
      return FileProblem(MANIFEST, "unreadable", "is not a file")
    else:
      with path.open("rb") as file:
        raw = file.read(min(json_limits.MAX_BYTES + 1, os.fstat(file.fileno()).st_size))
  except FileNotFoundError:
    return FileProblem(MANIFEST, "missing", "is missing, so no file of this step can be trusted")
  except OSError as error:
    return FileProblem(MANIFEST, "unreadable", f"cannot be read ({error.strerror})")
  if json_limits.is_too_large(raw):
    return FileProblem(MANIFEST, "changed", "is larger than any that is written")
  try:
    fields = json.loads(raw)
    files = {file: FileEntry(**entry) for file, entry in fields["files"].items()}
    manifest = Manifest(fields["step"], fields["committed"], fields["state"], files)
    intact = _render(manifest) == raw and _is_well_formed(manifest)
  except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
    intact = False
  if not intact:
    return FileProblem(MANIFEST, "changed", "was changed after it was written (its own checksum)")
  return manifest


def find_problems(
  directory: Location,
  step: int | None,
  *,
  hashes: bool = True,
  share: tuple[int, int] = (0, 1),
) -> list[FileProblem]:
  """Compares a checkpoint with its manifest; an empty list means that it is good.

  Args:
    directory: a committed checkpoint.
    step: the step that its name claims, if it claims one.
    hashes: whether to read the files; otherwise only their presence and sizes are checked.
    share: (i, n) reads only the i-th of n parts of the files, for n processes together.
  """
  manifest = read_manifest(directory)
  if isinstance(manifest, FileProblem):
    return [manifest]
  if step is not None and step != manifest.step:
    return [FileProblem(MANIFEST, "changed", f"is of step {manifest.step}: a renamed checkpoint")]
  try:
    sizes = dict(_walk(directory))
  except OSError as error:
    return [FileProblem(str(error.filename), "unreadable", f"cannot be read ({error.strerror})")]
  present = sizes.keys() - {MANIFEST, *([UNFINISHED] if is_remote(directory) else [])}
  problems = [
    FileProblem(file, "extra", "is not in the manifest") for file in present - manifest.files.keys()
  ]
  problems += [
    FileProblem(file, "missing", "is missing") for file in manifest.files.keys() - present
  ]
  to_read = []
  for file in present & manifest.files.keys():
    problem = _check_size(directory, file, sizes[file], manifest.files[file].bytes)
    if problem is None:
      to_read.append(file)
    else:
      problems.append(problem)
  if hashes:
    # By size, so that the shares of the processes are about equal.
    to_read.sort(key=lambda file: (manifest.files[file].bytes, file))
    problems += _changed_files(directory, manifest, to_read[share[0] :: share[1]])
  return sorted(problems)


def _check_size(
  directory: Location, file: str, now: int | None, written: int
) -> FileProblem | None:
  if now is None:
    try:
      status = os.stat(directory / file)
    except OSError as error:
      return FileProblem(file, "unreadable", f"cannot be read ({error.strerror})")
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for without end
      return FileProblem(file, "unreadable", "is not a file")
    now = status.st_size
  if now != written:
    return FileProblem(file, "size", f"has {now:,} bytes; {written:,} were written")
  return None


def _changed_files(
  directory: Location, manifest: Manifest, files: Sequence[str]
) -> list[FileProblem]:
  """Reads `files` and returns those that are not as they were written."""

  def check(file: str) -> FileProblem | None:
    try:
      written = manifest.files[file]
      intact = _hash(directory / file, written.bytes) == written
    except OSError as error:
      return FileProblem(file, "unreadable", f"cannot be read ({error.strerror})")
    return None if intact else FileProblem(file, "changed", "was changed (SHA-256 differs)")

  with concurrent.futures.ThreadPoolExecutor(_VERIFYING_THREADS) as executor:
    return [problem for problem in executor.map(check, files) if problem is not None]


def _walk(directory: Location) -> Iterator[tuple[str, int | None]]:
  """Yields the path of everything below `directory` that is not a directory; follows no link.

  With it goes its size on an object store, where the listing has it; None on a file system.
  """
  if is_remote(directory):
    yield from objects.sizes(directory).items()
  else:
    yield from ((file, None) for file in _walk_local(directory))


def _walk_local(directory: os.PathLike[str], prefix: str = "") -> Iterator[str]:
  with os.scandir(directory) as entries:
    for entry in entries:
      if entry.is_dir(follow_symlinks=False):
        yield from _walk_local(pathlib.Path(entry.path), f"{prefix}{entry.name}/")
      else:
        yield prefix + entry.name


def _hash(path: Location, size: int | None) -> FileEntry:
  """Hashes a file, or an object of `size` bytes."""
  if is_remote(path):
    assert size is not None
    return FileEntry(size, objects.sha256(path, size))
  with path.open("rb") as file:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(os.fstat(file.fileno()).st_size, digest)


def _hash_durably(path: Location, size: int | None) -> FileEntry:
  """Hashes a new file and makes it durable: a commit that a power cut undoes is none."""
  entry = _hash(path, size)
  if not is_remote(path):
    fsync(pathlib.Path(path))
  return entry


def _partial(process: int) -> str:
  return f"manifest.process_{process}.json"


def _is_well_formed(manifest: Manifest) -> bool:
  """Returns whether every field has its type: a checksum can be made for anything."""
  numbers = [manifest.step, *(entry.bytes for entry in manifest.files.values())]
  texts = [manifest.committed, *manifest.state.values()]
  texts += [entry.sha256 for entry in manifest.files.values()]
  return {type(number) for number in numbers} == {int} and {type(t) for t in texts} == {str}


def _render(manifest: Manifest) -> bytes:
  """Returns the bytes of the manifest file, a function of its contents: each of them counts."""
  fields: dict[str, Any] = {"format": _FORMAT, **manifest._asdict()}
  fields["files"] = {file: entry._asdict() for file, entry in manifest.files.items()}
  fields["sha256"] = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
  return (json.dumps(fields, sort_keys=True, indent=1) + "\n").encode()
