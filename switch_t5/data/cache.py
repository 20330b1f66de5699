# SPDX-License-Identifier: Apache-2.0
"""A task's tokens on disk: written once, then read at random.

What the task does before seqio's CacheDatasetPlaceholder is materialised: documents are tokenised
in the order of their source, and joined without separators, as T5 does. Windows are cut and corrupted
when they are read (`indexed`), so one cache serves any lengths. Tokenisation uses sentencepiece
itself, which gives the ids that seqio's gives at an eighth of the time: TensorFlow is not needed.

The directory holds, for each split, *shards* `SPLIT-00000-of-00004.array_record` (`shards`). The
tokens of all shards of a split, one after the other, are its *stream*. Which shards there are follows
from the documents alone; any number of *jobs* may write them, each its own, at the same time or one
after the other, and the files are the same. A job leaves alone what is done, so one that was killed
is simply started again. `info.json`, written when all shards are there, says what the files are: a
directory without it is unfinished.

Shards are written while documents are read: a few records of tokens are held in memory, and of the
text what the source holds.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import tqdm

from switch_t5 import errors
from switch_t5.data import documents as documents_lib
from switch_t5.data import shards, tasks, vocabulary
from switch_t5.data.shards import Shard
from switch_t5.storage import files
from switch_t5.storage.location import Location, location

FORMAT_VERSION = 2
INFO_FILE = "info.json"
TOKENS, EXAMPLES = "tokens", "examples"
SHARD_DOCUMENTS = 2**17  # of C4: 60 million tokens, 120 MB
_RECORDED_VERSIONS = ("switch_t5", "sentencepiece", "array_record", "numpy")


@dataclasses.dataclass(frozen=True)
class Split:
  """One split: its shards in the order of the stream; of examples, the file of their lengths."""

  shards: tuple[Shard, ...]
  lengths: Shard | None = None

  @property
  def files(self) -> tuple[Shard, ...]:
    """All files."""
    return self.shards if self.lengths is None else (*self.shards, self.lengths)

  @property
  def documents(self) -> int:
    """Number of documents."""
    return sum(shard.documents for shard in self.shards)

  @property
  def tokens(self) -> int:
    """Length of the stream."""
    return sum(shard.tokens for shard in self.shards)


@dataclasses.dataclass(frozen=True)
class CacheInfo:
  """What `info.json` says.

  Attributes:
    task: name of the task.
    format_version: of the shards and of this record.
    vocabulary: its `fingerprint` (hex), `size`, `extra_ids` and `eos_id`.
    source: what the documents follow from: names and their versions or hashes.
    splits: by name.
    record_length: tokens per record.
    token_dtype: NumPy's name of the stored integers: `<u2` or `<i4`.
    versions: of the packages that wrote the cache.
    skipped: faulty documents that are not in it.
    lines_read, lines_skipped: lines of the text files; their sum is the number there are. 0 of a
      source that has no lines.
    kind: `TOKENS`, or `EXAMPLES` (see `example_cache`).
    kept_eos: of examples, the features that keep their EOS when they are cut.
  """

  task: str
  format_version: int
  vocabulary: dict[str, str | int]
  source: dict[str, str]
  splits: dict[str, Split]
  record_length: int
  token_dtype: str
  versions: dict[str, str]
  skipped: int = 0
  lines_read: int = 0
  lines_skipped: int = 0
  kind: str = TOKENS
  kept_eos: Sequence[str] = ()

  @property
  def total(self) -> int:
    """Number of what jobs share: the shards of all splits, or 1 for examples."""
    return 1 if self.kind == EXAMPLES else sum(len(split.shards) for split in self.splits.values())


@dataclasses.dataclass(frozen=True)
class Unfinished:
  """A cache that lacks shards, which are other jobs' to write.

  Attributes:
    missing: their numbers: the shards of all splits are counted from 0.
    total: number of shards that there will be.
  """

  missing: tuple[int, ...]
  total: int


class Task(Protocol):
  """What has a cache of its own."""

  @property
  def name(self) -> str:
    """Its name."""

  def fingerprint(self) -> str:
    """Returns a hash (hex) of what its tokens follow from."""


def cache_directory(root: str | os.PathLike[str], task: Task) -> Location:
  """Returns where the task's cache belongs: another text or vocabulary has another path."""
  content = f"{task.fingerprint()} {FORMAT_VERSION}"
  return location(root) / f"{task.name}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"


def write_cache(
  task: tasks.SpanCorruptionTask,
  directory: str | os.PathLike[str],
  *,
  splits: Sequence[str] = documents_lib.SPLITS,
  shard_documents: int = SHARD_DOCUMENTS,
  job: int = 0,
  jobs: int = 1,
) -> CacheInfo | Unfinished:
  """Writes a job's share of a task's cache, or finds it done; the last job finishes the cache.

  Args:
    task: what to materialise.
    directory: the cache's, as `cache_directory` returns it.
    splits: names of the splits to write.
    shard_documents: documents per file, of which the last one of a split may have less.
    job: which of the jobs this is, from 0; it writes the shards whose number is `job` modulo `jobs`.
    jobs: how many share the work; one, a single job or the same one started again, always finishes.

  Raises:
    DataError: the source or the vocabulary is not usable, the directory is not writable, or it
      holds a cache that was made from something else, or that lacks more faulty documents than the
      task may skip.
  """
  directory = location(directory)
  vocab, source = task.vocabulary(), task.source.provenance()
  if files.exists(directory / INFO_FILE):
    return _check_skipped(matching_info(directory, task.name, source, vocab), task.skip_budget)
  budget = documents_lib.SkipBudget(task.skip_budget)
  documents = task.source.documents(budget)
  skipped = budget.skipped  # every job finds these; others are found while a shard is written
  texts = {split: documents[split] for split in splits}
  parts = shards.divide(texts, shard_documents)
  made_from = [task.name, source, vocab.fingerprint, FORMAT_VERSION, shard_documents, list(splits)]
  fingerprint = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
  try:
    files.make_directory(directory)
    _write_shards(directory, parts[job::jobs], texts, vocab, fingerprint, budget)
    written = shards.find_all(directory, parts, fingerprint)
    missing = tuple(number for number, shard in enumerate(written) if shard is None)
    if missing:
      return Unfinished(missing, len(parts))
    finished = {
      split: Split(tuple(s for p, s in zip(parts, written, strict=True) if s and p.split == split))
      for split in splits
    }
    write_info(
      directory,
      task.name,
      source,
      vocab,
      finished,
      skipped=skipped + sum(shard.skipped for shard in written if shard),
      lines_read=budget.lines_read,
      lines_skipped=budget.lines_skipped,
    )
  except OSError as error:
    # Another process that has finished the cache has removed the file that this one was writing.
    if not files.exists(directory / INFO_FILE):
      raise unwritable(directory, error) from error
  return _check_skipped(matching_info(directory, task.name, source, vocab), task.skip_budget)


def write_info(
  directory: Location,
  task: str,
  source: dict[str, str],
  vocab: vocabulary.Vocabulary,
  splits: dict[str, Split],
  **more: Any,
) -> None:
  """Writes `info.json`, which finishes a cache; `more` are further attributes of `CacheInfo`."""
  info = CacheInfo(
    task=task,
    format_version=FORMAT_VERSION,
    vocabulary={
      "fingerprint": vocab.fingerprint,
      "size": vocab.size,
      "extra_ids": vocab.extra_ids,
      "eos_id": vocab.eos_id,
    },
    source=source,
    splits=splits,
    record_length=shards.RECORD_LENGTH,
    token_dtype=shards.token_dtype(vocab),
    versions={name: _version(name) for name in _RECORDED_VERSIONS},
    **more,
  )
  shards.write_json(directory / INFO_FILE, dataclasses.asdict(info))
  files.remove_temporary_files(directory)


def _write_shards(
  directory: Location,
  parts: Sequence[shards.Part],
  texts: Mapping[str, documents_lib.Documents],
  vocab: vocabulary.Vocabulary,
  fingerprint: str,
  budget: documents_lib.SkipBudget,
) -> None:
  """Writes those of the parts' shards that are not done. Shows a progress bar on a terminal."""
  progress = tqdm.tqdm(total=sum(map(len, parts)), desc="tokens", unit="doc", disable=None)
  with progress:
    for part in parts:
      # Looked for when it is due: the same job may have been started twice.
      if shards.find(directory, part, fingerprint) is None:
        documents = texts[part.split][part.start : part.stop]
        shards.write(directory, part, documents, vocab, fingerprint, budget, progress)
      else:
        progress.update(len(part))


def read_info(directory: str | os.PathLike[str]) -> CacheInfo:
  """Reads what a cache holds, and checks that its files are there and have their sizes.

  Raises:
    DataError: there is no cache, `info.json` is damaged or of another format, or a shard is
      missing or has another size.
  """
  directory = location(directory)
  try:
    content = json.loads(files.read(directory / INFO_FILE))
    if content["format_version"] != FORMAT_VERSION:
      raise damaged(
        directory / INFO_FILE, f"format version {FORMAT_VERSION}, not {content['format_version']}"
      )
    content["splits"] = {
      name: Split(
        tuple(Shard(**shard) for shard in split["shards"]),
        Shard(**split["lengths"]) if split.get("lengths") else None,
      )
      for name, split in content["splits"].items()
    }
    info = CacheInfo(**content)
  except FileNotFoundError as error:
    raise _no_cache(directory) from error
  except (ValueError, KeyError, TypeError, OSError) as error:
    raise damaged(directory / INFO_FILE, f"the record of a cache ({error!r})") from error
  sizes = files.sizes(directory)
  for split in info.splits.values():
    for shard in split.files:
      size = sizes.get(shard.file)
      if size != shard.size:
        found = "missing" if size is None else f"{size} bytes"
        raise damaged(directory / shard.file, f"a shard of {shard.size} bytes ({found})")
  return info


def verify(directory: str | os.PathLike[str]) -> CacheInfo:
  """Reads every shard and compares its SHA-256; raises a DataError that names the first bad one."""
  info = read_info(directory)
  for split in info.splits.values():
    for shard in split.files:
      path = location(directory) / shard.file
      if shards.sha256(path) != shard.sha256:
        raise damaged(path, f"SHA-256 {shard.sha256}")
  return info


def check_vocabulary(info: CacheInfo, vocab: vocabulary.Vocabulary) -> None:
  """Raises a DataError if the cache was made with another vocabulary."""
  if info.vocabulary["fingerprint"] != vocab.fingerprint:
    raise errors.DataError(
      f"The cache of {info.task} was made with another vocabulary.",
      value=f"{vocab.path}: {vocab.size} ids, fingerprint {vocab.fingerprint[:16]}",
      rule=f"the cache's: {info.vocabulary['size']} ids, fingerprint "
      f"{str(info.vocabulary['fingerprint'])[:16]}",
      remedy="use that vocabulary, or write another cache: switch_t5 cache.",
    )


def matching_info(
  directory: Location, task: str, source: dict[str, str], vocab: vocabulary.Vocabulary
) -> CacheInfo:
  """Returns the info of a finished cache, after checking what it was made from."""
  info = read_info(directory)
  check_vocabulary(info, vocab)
  if (info.task, info.source) != (task, source):
    raise errors.DataError(
      "The directory holds the cache of another text.",
      value=directory,
      rule=f"the cache of {task} on the text as it is now; it holds {info.task}",
      remedy="give another directory, or delete this one.",
    )
  return info


def _check_skipped(info: CacheInfo, limit: int) -> CacheInfo:
  """Returns the info of a cache, if all jobs together have not skipped too much."""
  if info.skipped > limit:
    raise errors.DataError(
      f"The cache of {info.task} lacks more faulty documents than may be skipped.",
      value=f"{info.skipped} documents were skipped when it was written",
      rule=f"DatasetConfig.skip_budget = {limit}",
      remedy=f"DatasetConfig.skip_budget = {info.skipped}, if that is acceptable; or mend the "
      "documents, delete the cache's directory and write it again: switch_t5 cache.",
    )
  return info


def _version(distribution: str) -> str:
  try:
    return importlib.metadata.version(distribution)
  except importlib.metadata.PackageNotFoundError:
    return "absent"


def _no_cache(directory: Location) -> errors.DataError:
  done, total = shards.count(directory)
  if done:
    return errors.DataError(
      "The cache of tokens is not finished.",
      value=directory,
      rule=f"{total} shards and {INFO_FILE}; {done} of the shards are there",
      remedy="finish it: switch_t5 cache, with the same gin files and bindings; it writes those that "
      "are missing.",
    )
  return errors.DataError(
    "There is no cache of tokens.",
    value=directory,
    rule=f"a directory that `switch_t5 cache` wrote, with {INFO_FILE}",
    remedy="write it first: switch_t5 cache, with the same gin files and bindings as the run.",
  )


def unwritable(directory: Location, error: OSError) -> errors.DataError:
  """Returns the error of a cache that cannot be written."""
  return errors.DataError(
    "The cache cannot be written.",
    value=directory,
    rule=f"a directory on a disk with room for it ({error.strerror or error})",
    remedy="give another directory as CACHE_DIR, or make room; what is written already is kept.",
  )


def damaged(path: Location, rule: str) -> errors.DataError:
  """Returns the error of a file of a cache that breaks a rule."""
  return errors.DataError(
    "The cache is damaged.",
    value=path,
    rule=rule,
    remedy=f"delete this file, and {INFO_FILE} beside it; switch_t5 cache then writes what is "
    "missing.",
  )
