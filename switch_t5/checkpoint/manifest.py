# SPDX-License-Identifier: Apache-2.0
"""The manifest of a checkpoint: size and SHA-256 of every file, written before the commit.

A checkpoint is a directory. Its manifest, `manifest.json`, lists every other file in it, describes
the arrays that were saved, and carries a checksum of itself. The rename that commits a checkpoint
comes after the manifest, so a committed checkpoint always has one.

Each process hashes the files that it wrote (`seal_process`), then process 0 the rest, and merges
(`seal`). Needs no JAX: any process can verify a checkpoint, also while its run goes on.
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

MANIFEST = "manifest.json"
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


def seal_process(directory: pathlib.Path, process: int) -> None:
  """Hashes the array files that `process` wrote; `seal` collects what it found."""
  own = [file for file in _walk(directory) if file.startswith(f"ocdbt.process_{process}/")]
  entries = {file: _hash_durably(directory / file) for file in own}
  (directory / _partial(process)).write_text(json.dumps(entries))


def seal(directory: pathlib.Path, step: int, state: dict[str, str], processes: int) -> None:
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
      part = json.loads(path.read_text())
    except FileNotFoundError as error:
      raise FileNotFoundError(
        f"process {process} wrote its part elsewhere; all processes must share this directory"
      ) from error
    entries |= {file: FileEntry(*entry) for file, entry in part.items()}
    path.unlink()
  for file in _walk(directory):
    if file not in entries:
      entries[file] = _hash_durably(directory / file)
  committed = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
  (directory / MANIFEST).write_bytes(_render(Manifest(step, committed, state, entries)))
  fsync(directory / MANIFEST)
  fsync(directory)


def read_manifest(directory: pathlib.Path) -> Manifest | FileProblem:
  """Returns the manifest, or what is wrong with it."""
  path = directory / MANIFEST
  try:
    if path.exists() and not path.is_file():  # a pipe would be waited for without end
      return FileProblem(MANIFEST, "unreadable", "is not a file")
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
  directory: pathlib.Path,
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
    present = set(_walk(directory)) - {MANIFEST}
  except OSError as error:
    return [FileProblem(str(error.filename), "unreadable", f"cannot be read ({error.strerror})")]
  problems = [
    FileProblem(file, "extra", "is not in the manifest") for file in present - manifest.files.keys()
  ]
  problems += [
    FileProblem(file, "missing", "is missing") for file in manifest.files.keys() - present
  ]
  to_read = []
  for file in present & manifest.files.keys():
    problem = _check_size(directory, file, manifest.files[file].bytes)
    if problem is None:
      to_read.append(file)
    else:
      problems.append(problem)
  if hashes:
    # By size, so that the shares of the processes are about equal.
    to_read.sort(key=lambda file: (manifest.files[file].bytes, file))
    problems += _changed_files(directory, manifest, to_read[share[0] :: share[1]])
  return sorted(problems)


def fsync(path: pathlib.Path) -> None:
  """Makes a file or a directory survive a power cut."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def _check_size(directory: pathlib.Path, file: str, written: int) -> FileProblem | None:
  try:
    status = (directory / file).stat()
  except OSError as error:
    return FileProblem(file, "unreadable", f"cannot be read ({error.strerror})")
  if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for without end
    return FileProblem(file, "unreadable", "is not a file")
  now = status.st_size
  if now != written:
    return FileProblem(file, "size", f"has {now:,} bytes; {written:,} were written")
  return None


def _changed_files(
  directory: pathlib.Path, manifest: Manifest, files: Sequence[str]
) -> list[FileProblem]:
  """Reads `files` and returns those that are not as they were written."""

  def check(file: str) -> FileProblem | None:
    try:
      intact = _hash(directory / file) == manifest.files[file]
    except OSError as error:
      return FileProblem(file, "unreadable", f"cannot be read ({error.strerror})")
    return None if intact else FileProblem(file, "changed", "was changed (SHA-256 differs)")

  with concurrent.futures.ThreadPoolExecutor(_VERIFYING_THREADS) as executor:
    return [problem for problem in executor.map(check, files) if problem is not None]


def _walk(directory: pathlib.Path, prefix: str = "") -> Iterator[str]:
  """Yields the path of everything below `directory` that is not a directory; follows no link."""
  with os.scandir(directory) as entries:
    for entry in entries:
      if entry.is_dir(follow_symlinks=False):
        yield from _walk(pathlib.Path(entry.path), f"{prefix}{entry.name}/")
      else:
        yield prefix + entry.name


def _hash(path: pathlib.Path) -> FileEntry:
  with path.open("rb") as file:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(os.fstat(file.fileno()).st_size, digest)


def _hash_durably(path: pathlib.Path) -> FileEntry:
  """Hashes a new file and makes it durable: a commit that a power cut undoes is none."""
  entry = _hash(path)
  fsync(path)
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
