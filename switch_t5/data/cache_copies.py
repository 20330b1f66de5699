# SPDX-License-Identifier: Apache-2.0
"""Copies on this host of caches in object storage.

A cache is copied whole before it is read. A host that reads 64 rows of 568 tokens a step would make
64 requests of 1 kB a step at places that are as good as random: of C4, 350 GB, all hosts together 300
million an epoch, each with 50 ms of waiting, a charge, and no hash to hold it against. A copy is some
requests for each of 2,900 files, at the network's pace, and each file is held to its SHA-256.

Copies are made once on a host, by the first process that asks; they stay for later runs. They lie in
`~/.cache/switch_t5/copies` or `$XDG_CACHE_HOME/switch_t5/copies`, and whoever deletes them loses time.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import fcntl
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import tqdm
from absl import logging

from switch_t5.data import cache, shards
from switch_t5.data.file_copies import copies, no_copy
from switch_t5.storage import files, transfers
from switch_t5.storage.location import Location, is_remote

_COPIED_AT_ONCE = 8
_LOCK = "copy.lock"


def copy_cache(directory: Location) -> Path:
  """Returns a directory of this host with a finished cache; of one in object storage its copy.

  Raises:
    DataError: there is no cache, it is damaged, or the disk has no room for it.
  """
  if not is_remote(directory):
    return Path(directory)
  info = cache.read_info(directory)
  record = files.read(directory / cache.INFO_FILE)
  # A cache that was written anew has another copy.
  copy = copies() / f"{directory.name}-{hashlib.sha256(record).hexdigest()[:16]}"
  if (copy / cache.INFO_FILE).exists():
    cache.read_info(copy)
    return copy
  wanted = [shard for split in info.splits.values() for shard in split.files]
  try:
    copy.mkdir(parents=True, exist_ok=True)
    with _locked(copy):
      if not (copy / cache.INFO_FILE).exists():
        files.remove_temporary_files(copy)
        _copy_shards(directory, copy, wanted)
        with files.committed(copy / cache.INFO_FILE) as temporary:
          temporary.write_bytes(record)
  except OSError as error:
    raise no_copy(copy, str(error.strerror or error)) from error
  return copy


def _copy_shards(directory: Location, copy: Path, wanted: list[shards.Shard]) -> None:
  """Copies those shards that are not there, some at a time. Shows a progress bar on a terminal."""
  there = files.sizes(copy)
  missing = [shard for shard in wanted if there.get(shard.file) != shard.size]
  needed, free = sum(shard.size for shard in missing), shutil.disk_usage(copy).free
  if needed > free:
    raise no_copy(copy, f"{needed / 1e9:,.1f} GB are to be copied, {free / 1e9:,.1f} GB are free")
  logging.info("%s: %.1f GB are copied to %s", directory, needed / 1e9, copy)
  with (
    tqdm.tqdm(total=needed, desc="copy", unit="B", unit_scale=True, disable=None) as progress,
    concurrent.futures.ThreadPoolExecutor(_COPIED_AT_ONCE) as executor,
  ):
    copying = [executor.submit(_copy_shard, directory, copy, shard) for shard in missing]
    try:
      for done in concurrent.futures.as_completed(copying):
        progress.update(done.result())
    except BaseException:
      executor.shutdown(wait=False, cancel_futures=True)
      raise


def _copy_shard(directory: Location, copy: Path, shard: shards.Shard) -> int:
  """Copies one shard; returns its bytes."""
  with files.committed(copy / shard.file) as temporary:
    transfers.download(directory / shard.file, temporary)
    if shards.sha256(temporary) != shard.sha256:
      raise cache.damaged(directory / shard.file, f"SHA-256 {shard.sha256}")
  return shard.size


@contextlib.contextmanager
def _locked(copy: Path) -> Iterator[None]:
  """Waits until no other process of this host copies; the kernel releases what a killed one held."""
  with (copy / _LOCK).open("w") as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      logging.info("%s: waiting for another process that copies", copy)
      fcntl.flock(lock, fcntl.LOCK_EX)
    yield
