# SPDX-License-Identifier: Apache-2.0
"""A task's tokens on disk: written once, then read at random.

What the task does before seqio's CacheDatasetPlaceholder is materialised: documents are tokenised
in the order of their source, and joined without separators, as T5 does. Windows are cut and corrupted
when they are read (`indexed`), so one cache serves any lengths. Tokenisation uses sentencepiece
itself, which gives the ids that seqio's gives at an eighth of the time: TensorFlow is not needed.

The directory holds, for each split, *shards* `SPLIT-00000-of-00004.array_record`. The tokens of all
shards of a split, one after the other, are its *stream*. A shard is an ArrayRecord file of records
of `RECORD_LENGTH` tokens (its last record may be shorter), uncompressed little-endian integers of
two bytes where the vocabulary allows it, which read twice as fast as compressed ones and are hardly
larger. `info.json` says what the files are. All of it is written into a temporary directory beside
the final one, `info.json` last, and renamed in one step: a directory under the final name is
complete.

Shards are written while documents are read: a few records of tokens are held in memory, and of the
text what the source holds.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import itertools
import json
import operator
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tqdm
from array_record.python import array_record_module

from switch_t5 import errors
from switch_t5.data import documents as documents_lib
from switch_t5.data import tasks, vocabulary

FORMAT_VERSION = 1
RECORD_LENGTH = 2048  # tokens; several windows, so that a window rarely needs two records
INFO_FILE = "info.json"
SHARD_TOKENS = 2**27  # 256 MiB of two-byte tokens
_DOCUMENTS_PER_BATCH = 1024
_RECORDED_VERSIONS = ("switch_t5", "sentencepiece", "array_record", "numpy")


@dataclasses.dataclass(frozen=True)
class Shard:
  """One file: its name, the tokens it holds, its size in bytes and its SHA-256 (hex)."""

  file: str
  tokens: int
  size: int
  sha256: str


@dataclasses.dataclass(frozen=True)
class Split:
  """One split: the number of its documents, and its shards in the order of the stream."""

  documents: int
  shards: tuple[Shard, ...]

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
  """

  task: str
  format_version: int
  vocabulary: dict[str, str | int]
  source: dict[str, str]
  splits: dict[str, Split]
  record_length: int
  token_dtype: str
  versions: dict[str, str]


def cache_directory(root: str | os.PathLike[str], task: tasks.SpanCorruptionTask) -> Path:
  """Returns where the task's cache belongs: another text or vocabulary has another path."""
  content = f"{task.fingerprint()} {FORMAT_VERSION}"
  return Path(root) / f"{task.name}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"


def write_cache(
  task: tasks.SpanCorruptionTask,
  directory: str | os.PathLike[str],
  *,
  splits: Sequence[str] = documents_lib.SPLITS,
  shard_tokens: int = SHARD_TOKENS,
) -> CacheInfo:
  """Writes a task's cache, or finds it done.

  Args:
    task: what to materialise.
    directory: the final directory, as `cache_directory` returns it.
    splits: names of the splits to write.
    shard_tokens: tokens per file, of which the last one of a split may have less.

  Raises:
    DataError: the source or the vocabulary is not usable, the directory is not writable, or it
      holds a cache that was made from something else.
  """
  directory = Path(directory)
  vocab, source = task.vocabulary(), task.source.provenance()
  if (directory / INFO_FILE).exists():
    return _matching_info(directory, task.name, source, vocab)
  documents = task.source.documents()
  temporary = _make_temporary(directory)
  try:
    written = {
      split: _write_split(temporary, split, documents[split], vocab, shard_tokens)
      for split in splits
    }
    info = CacheInfo(
      task=task.name,
      format_version=FORMAT_VERSION,
      vocabulary={
        "fingerprint": vocab.fingerprint,
        "size": vocab.size,
        "extra_ids": vocab.extra_ids,
        "eos_id": vocab.eos_id,
      },
      source=source,
      splits=written,
      record_length=RECORD_LENGTH,
      token_dtype=_token_dtype(vocab),
      versions={name: _version(name) for name in _RECORDED_VERSIONS},
    )
    content = json.dumps(dataclasses.asdict(info), indent=2) + "\n"
    (temporary / INFO_FILE).write_text(content, encoding="utf-8")
    _commit(temporary, directory)
  except OSError as error:
    raise _unwritable(directory, error) from error
  finally:
    shutil.rmtree(temporary, ignore_errors=True)  # what is left of it if it was not renamed
  return _matching_info(directory, task.name, source, vocab)  # another process may have been first


def read_info(directory: str | os.PathLike[str]) -> CacheInfo:
  """Reads what a cache holds, and checks that its files are there and have their sizes.

  Raises:
    DataError: there is no cache, `info.json` is damaged or of another format, or a shard is
      missing or has another size.
  """
  directory = Path(directory)
  try:
    content = json.loads((directory / INFO_FILE).read_text(encoding="utf-8"))
    if content["format_version"] != FORMAT_VERSION:
      raise damaged(directory, f"format version {FORMAT_VERSION}, not {content['format_version']}")
    content["splits"] = {
      name: Split(split["documents"], tuple(Shard(**shard) for shard in split["shards"]))
      for name, split in content["splits"].items()
    }
    info = CacheInfo(**content)
  except FileNotFoundError as error:
    raise errors.DataError(
      "There is no cache of tokens.",
      value=directory,
      rule=f"a directory that `switch_t5 cache` wrote, with {INFO_FILE}",
      remedy="write it first: switch_t5 cache, with the same gin files and bindings as the run.",
    ) from error
  except (ValueError, KeyError, TypeError, OSError) as error:
    raise damaged(directory / INFO_FILE, f"the record of a cache ({error!r})") from error
  for split in info.splits.values():
    for shard in split.shards:
      path = directory / shard.file
      size = path.stat().st_size if path.exists() else None
      if size != shard.size:
        found = "missing" if size is None else f"{size} bytes"
        raise damaged(path, f"a shard of {shard.size} bytes ({found})")
  return info


def verify(directory: str | os.PathLike[str]) -> CacheInfo:
  """Reads every shard and compares its SHA-256; raises a DataError that names the first bad one."""
  info = read_info(directory)
  for split in info.splits.values():
    for shard in split.shards:
      if _sha256(Path(directory) / shard.file) != shard.sha256:
        raise damaged(Path(directory) / shard.file, f"SHA-256 {shard.sha256}")
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


def _matching_info(
  directory: Path, task: str, source: dict[str, str], vocab: vocabulary.Vocabulary
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


def _write_split(
  directory: Path,
  split: str,
  documents: Iterable[str],
  vocab: vocabulary.Vocabulary,
  shard_tokens: int,
) -> Split:
  """Tokenises the documents and writes the split's shards, one after the other."""
  counted = _Counted(documents, f"tokens of {split}")
  length = min(RECORD_LENGTH, shard_tokens)
  records = _records(_tokenise(counted, vocab), length)
  paths: list[Path] = []
  sizes: list[int] = []
  # The first of a shard's records is taken to see whether there is one; an empty split has a shard.
  while (first := next(records, None)) is not None or not paths:
    rest = itertools.islice(records, shard_tokens // length - 1)
    paths.append(directory / f"{split}-{len(paths):05d}.array_record")
    sizes.append(_write_shard(paths[-1], itertools.chain([] if first is None else [first], rest)))
  shards = []
  for path, tokens in zip(paths, sizes, strict=True):
    path = path.rename(path.with_stem(f"{path.stem}-of-{len(paths):05d}"))
    shards.append(Shard(path.name, tokens, path.stat().st_size, _sha256(path)))
  return Split(counted.count, tuple(shards))


class _Counted:
  """Documents that are counted as they pass; shows a progress bar on a terminal."""

  def __init__(self, documents: Iterable[str], description: str):
    self._documents, self._description, self.count = documents, description, 0

  def __iter__(self) -> Iterator[str]:
    total = operator.length_hint(self._documents) or None
    progress = tqdm.tqdm(total=total, desc=self._description, unit="doc", disable=None)
    with progress:
      for document in self._documents:
        self.count += 1
        progress.update()
        yield document


def _tokenise(documents: Iterable[str], vocab: vocabulary.Vocabulary) -> Iterator[np.ndarray]:
  """Yields the tokens of one document after the other."""
  dtype = np.dtype(_token_dtype(vocab))
  documents = iter(documents)
  while batch := list(itertools.islice(documents, _DOCUMENTS_PER_BATCH)):
    for ids in vocab.encode_batch(batch):
      yield np.asarray(ids, dtype)


def _records(pieces: Iterable[np.ndarray], length: int) -> Iterator[np.ndarray]:
  """Yields the pieces joined and cut into records of `length` tokens; the last may be shorter."""
  waiting: list[np.ndarray] = []
  for piece in pieces:
    waiting.append(piece)
    if sum(map(len, waiting)) >= length:
      tokens = np.concatenate(waiting)
      whole = len(tokens) - len(tokens) % length
      yield from np.split(tokens[:whole], whole // length)
      waiting = [tokens[whole:]]
  if any(map(len, waiting)):
    yield np.concatenate(waiting)


def _token_dtype(vocab: vocabulary.Vocabulary) -> str:
  return "<u2" if vocab.size <= 2**16 else "<i4"


def _write_shard(path: Path, records: Iterable[np.ndarray]) -> int:
  """Writes a file of records; returns the number of its tokens."""
  writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1,uncompressed")
  written = tokens = 0
  for record in records:
    writer.write(record.tobytes())
    written, tokens = written + 1, tokens + len(record)
  writer.close()
  found = array_record_module.ArrayRecordReader(str(path)).num_records()
  if found != written:
    raise OSError(f"{found} of {written} records of {path.name} were written")
  return tokens


def _make_temporary(directory: Path) -> Path:
  try:
    directory.parent.mkdir(parents=True, exist_ok=True)
    # Hidden and beside the final one, so that the rename stays on one file system.
    return Path(tempfile.mkdtemp(prefix=f".{directory.name}.incomplete-", dir=directory.parent))
  except OSError as error:
    raise _unwritable(directory, error) from error


def _commit(temporary: Path, directory: Path) -> None:
  """Makes the files durable and gives the directory its final name."""
  for path in [*temporary.iterdir(), temporary]:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
  temporary.chmod(0o755)  # mkdtemp lets only the owner in
  try:
    temporary.rename(directory)
  except OSError:
    if not (directory / INFO_FILE).exists():  # else another process has committed the cache
      raise


def _sha256(path: Path) -> str:
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _version(distribution: str) -> str:
  try:
    return importlib.metadata.version(distribution)
  except importlib.metadata.PackageNotFoundError:
    return "absent"


def _unwritable(directory: Path, error: OSError) -> errors.DataError:
  return errors.DataError(
    "The cache cannot be written.",
    value=directory,
    rule=f"a new directory on a disk with room for it ({error.strerror or error})",
    remedy="give another directory as TASK_DATA_DIR, or make room.",
  )


def damaged(path: Path, rule: str) -> errors.DataError:
  """Returns the error of a file of a cache that breaks a rule."""
  return errors.DataError(
    "The cache is damaged.",
    value=path,
    rule=rule,
    remedy="delete the cache's directory and write it again: switch_t5 cache.",
  )
