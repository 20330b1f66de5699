# SPDX-License-Identifier: Apache-2.0
"""Span-corruption tasks, described without TensorFlow.

A task says which text is corrupted with which vocabulary. `cache` materialises it, `indexed` reads
it, and `seqio_tasks` registers the same tasks with seqio under the same names.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from switch_t5 import errors
from switch_t5.data import embedded_corpus, tfds_source, vocabulary
from switch_t5.data.text_files import TextFiles, find_files

EMBEDDED_SPAN_CORRUPTION = "embedded_span_corruption"
TEXT_SPAN_CORRUPTION = "text_span_corruption"
C4_VERSIONS = {"c4_v220_span_corruption": "2.2.0", "c4_v310_span_corruption": "3.1.0"}
# mT5's names: bg-Latn is the task mc4.bg_Latn.
MC4_LANGUAGES = {f"mc4.{code.replace('-', '_')}": code for code in tfds_source.MC4_LANGUAGES}
TASK_NAMES = (EMBEDDED_SPAN_CORRUPTION, TEXT_SPAN_CORRUPTION, *C4_VERSIONS, *MC4_LANGUAGES)


class Source(Protocol):
  """Where a task's documents come from."""

  def documents(self) -> Mapping[str, Iterable[str]]:
    """Returns the documents of each split, `train` and `validation` at least.

    They come in a fixed order, as good as random: a cache holds them in it. They may be read while
    they are iterated over, so that a source may be larger than memory.
    """

  def provenance(self) -> dict[str, str]:
    """Returns what the documents follow from: names, and their versions or hashes."""


@dataclasses.dataclass(frozen=True)
class SpanCorruptionTask:
  """Pretraining by span corruption on the documents of a source.

  Attributes:
    name: as seqio knows it.
    source: of the documents.
    vocabulary_path: a SentencePiece model file.
    extra_ids: number of sentinels that are added to it.
  """

  name: str
  source: Source
  vocabulary_path: str
  extra_ids: int = vocabulary.EXTRA_IDS

  def vocabulary(self) -> vocabulary.Vocabulary:
    """Reads the vocabulary; raises a DataError if it is missing or is none."""
    return vocabulary.Vocabulary(self.vocabulary_path, self.extra_ids)

  def fingerprint(self) -> str:
    """Returns a SHA-256 (hex) of the source and the vocabulary: what the tokens follow from."""
    content = json.dumps([self.source.provenance(), self.vocabulary().fingerprint], sort_keys=True)
    return hashlib.sha256(content.encode("utf-8")).hexdigest()


_added: dict[str, SpanCorruptionTask] = {}


def known_names() -> list[str]:
  """Returns the names that `get_task` knows."""
  return [*TASK_NAMES, *_added]


def add_task(task: SpanCorruptionTask) -> None:
  """Makes a task of the user's own known by its name; called by a module given as --import.

  Raises:
    ConfigError: if the name is taken.
  """
  if task.name in known_names():
    raise errors.ConfigError(
      "The name of a task is taken.", value=task.name, rule="each task has a name of its own"
    )
  _added[task.name] = task


def _worth_suggesting(name: str) -> list[str]:
  """Returns the known names; mC4's hundred only to who asks for one of them."""
  if name.startswith("mc4"):
    return known_names()
  return [known for known in known_names() if known not in MC4_LANGUAGES] + ["mc4.<language>"]


def get_task(
  name: str,
  *,
  text_files: str | Sequence[str] | None = None,
  vocabulary_path: str | os.PathLike[str] | None = None,
  tfds_data_dir: str | None = None,
) -> SpanCorruptionTask:
  """Returns a known task.

  Args:
    name: one of `TASK_NAMES`, or of a task that `add_task` was given.
    text_files: globs, for `text_span_corruption` only.
    vocabulary_path: a SentencePiece model file; the embedded one if not given.
    tfds_data_dir: folder of the data sets that TFDS has prepared, for C4 and mC4; its own default
      if not given.

  Raises:
    ConfigError: the name is unknown, or `text_files` is missing or not used.
    DataError: a glob matches no file.
  """
  path = os.fspath(vocabulary_path or vocabulary.embedded_vocabulary_path())
  if text_files and name in TASK_NAMES and name != TEXT_SPAN_CORRUPTION:
    raise errors.ConfigError(
      f"The task {name} does not read text files.",
      value=text_files,
      rule="it has a text of its own",
      remedy=f"choose the task {TEXT_SPAN_CORRUPTION}, or leave TEXT_FILES out.",
    )
  if name == EMBEDDED_SPAN_CORRUPTION:
    return SpanCorruptionTask(name, embedded_corpus.EmbeddedCorpus(), path)
  if name in C4_VERSIONS:
    return SpanCorruptionTask(name, tfds_source.c4(C4_VERSIONS[name], tfds_data_dir), path)
  if name in MC4_LANGUAGES:
    return SpanCorruptionTask(name, tfds_source.mc4(MC4_LANGUAGES[name], tfds_data_dir), path)
  if name == TEXT_SPAN_CORRUPTION:
    if not text_files:
      raise errors.ConfigError(
        f"The task {name} needs text files.",
        rule="a glob, or several with commas between them, of .txt or .jsonl files, also as .gz",
        remedy="set TEXT_FILES, for example 'my/*.txt'.",
      )
    return SpanCorruptionTask(name, TextFiles(find_files(text_files)), path)
  if name in _added:
    return _added[name]
  raise errors.ConfigError(
    "The task is not known.",
    value=name,
    rule="the name of a task",
    remedy=f"{errors.suggest(name, _worth_suggesting(name))} Tasks of seqio's registries are read "
    "with DatasetConfig.reader = 'streaming'.",
  )
