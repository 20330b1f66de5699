# SPDX-License-Identifier: Apache-2.0
"""Span-corruption tasks, and mixtures, described without TensorFlow.

A task says which text is corrupted with which vocabulary. `cache` materialises it, `indexed` reads
it, and `seqio_tasks` registers the same tasks with seqio under the same names. A mixture is a name
for several tasks and their rates; some of them, or all, may be tasks of seqio's registries.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Protocol

from switch_t5 import errors
from switch_t5.data import embedded_corpus, example_tasks, fact_memory, tfds_source, vocabulary
from switch_t5.data.documents import Documents, SkipBudget
from switch_t5.data.downstream import registry
from switch_t5.data.example_tasks import ExampleTask
from switch_t5.data.text_files import TextFiles, find_files

EMBEDDED_SPAN_CORRUPTION = "embedded_span_corruption"
TEXT_SPAN_CORRUPTION = "text_span_corruption"
FACT_MEMORY = "fact_memory"
C4_VERSIONS = {"c4_v220_span_corruption": "2.2.0", "c4_v310_span_corruption": "3.1.0"}
# mT5's names: bg-Latn is the task mc4.bg_Latn.
MC4_LANGUAGES = {f"mc4.{code.replace('-', '_')}": code for code in tfds_source.MC4_LANGUAGES}
TASK_NAMES = (
  EMBEDDED_SPAN_CORRUPTION,
  TEXT_SPAN_CORRUPTION,
  FACT_MEMORY,
  *C4_VERSIONS,
  *MC4_LANGUAGES,
)
MC4 = "mc4"
_MC4_EXPONENT = 0.3  # mT5, section 3.1


class Source(Protocol):
  """Where a task's documents come from."""

  def documents(self, budget: SkipBudget | None = None) -> Mapping[str, Documents]:
    """Returns the documents of each split, `train` and `validation` at least.

    They come in a fixed order, as good as random: a cache holds them in it.

    Args:
      budget: told of each faulty document, at once or when the documents are read; none may be
        skipped if it is not given.
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
    skip_budget: faulty documents that may be skipped.
  """

  name: str
  source: Source
  vocabulary_path: str
  extra_ids: int = vocabulary.EXTRA_IDS
  skip_budget: int = 0

  def documents(self) -> Mapping[str, Documents]:
    """Returns the documents of the source; no more may be faulty than `skip_budget`."""
    return self.source.documents(SkipBudget(self.skip_budget))

  def vocabulary(self) -> vocabulary.Vocabulary:
    """Reads the vocabulary; raises a DataError if it is missing or is none."""
    try:
      status = os.stat(self.vocabulary_path)
    except OSError:
      return vocabulary.Vocabulary(self.vocabulary_path, self.extra_ids)  # which says what is wrong
    version = (status.st_mtime_ns, status.st_size)
    return _read_vocabulary(self.vocabulary_path, self.extra_ids, version)

  def provenance(self) -> dict[str, str]:
    """Returns what the documents follow from: see `Source`."""
    return self.source.provenance()

  def fingerprint(self) -> str:
    """Returns a SHA-256 (hex) of the source and the vocabulary: what the tokens follow from."""
    content = json.dumps([self.provenance(), self.vocabulary().fingerprint], sort_keys=True)
    return hashlib.sha256(content.encode("utf-8")).hexdigest()


@functools.lru_cache(maxsize=1)
def _read_vocabulary(path: str, extra_ids: int, version: tuple[int, int]) -> vocabulary.Vocabulary:
  """Reads a file once for all tasks of a mixture: mT5's takes most of a second."""
  del version  # another one of the file is read anew
  return vocabulary.Vocabulary(path, extra_ids)


@dataclasses.dataclass(frozen=True)
class Mixture:
  """Several tasks, each with its share of the training rows.

  Attributes:
    name: of the mixture.
    tasks: names of its tasks, its *components*.
    rates: of each task; only their proportions matter. A task whose rate is 0 is only validated.
      None: each task's number of training documents to the power `exponent`.
    exponent: 1 takes all documents equally often; less takes those of small tasks more often.
  """

  name: str
  tasks: tuple[str, ...]
  rates: tuple[float, ...] | None = None
  exponent: float = 1.0

  def __post_init__(self):
    if not self.tasks or len(set(self.tasks)) < len(self.tasks):
      raise self._invalid(", ".join(self.tasks) or "no task", "one or more tasks, each named once")
    rates = (1.0,) * len(self.tasks) if self.rates is None else self.rates
    if len(rates) != len(self.tasks):
      raise self._invalid(f"{len(rates)} rates, {len(self.tasks)} tasks", "a rate for each task")
    for task, rate in zip(self.tasks, rates, strict=True):
      if not 0 <= rate < math.inf:
        raise self._invalid(f"{task}: {rate}", "rates are finite, and not negative")
    if not any(rates):
      raise self._invalid("a rate of 0 for each task", "a rate above 0 for one of them at least")
    if not math.isfinite(self.exponent):
      raise self._invalid(f"exponent {self.exponent}", "a finite exponent")

  def rates_for(self, num_documents: Sequence[int]) -> tuple[float, ...]:
    """Returns the tasks' rates, given their numbers of training documents."""
    if self.rates is not None:
      return self.rates
    # An empty task is left to the reader, which refuses it by name.
    return tuple(float(max(number, 1)) ** self.exponent for number in num_documents)

  def _invalid(self, value: str, rule: str) -> errors.ConfigError:
    return errors.ConfigError(f"The mixture {self.name} is not valid.", value=value, rule=rule)


Task = SpanCorruptionTask | ExampleTask

_added: dict[str, SpanCorruptionTask] = {}
_mixtures = {MC4: Mixture(MC4, tuple(MC4_LANGUAGES), exponent=_MC4_EXPONENT)}


def task_names() -> list[str]:
  """Returns the names of all tasks of span corruption."""
  return [*TASK_NAMES, *_added]


def known_names() -> list[str]:
  """Returns the names of all tasks and mixtures, those of `downstream` too."""
  return [*task_names(), *_mixtures, *registry.names()]


def mixtures() -> list[Mixture]:
  """Returns all mixtures, except those of `downstream`."""
  return list(_mixtures.values())


def add_task(task: SpanCorruptionTask) -> None:
  """Makes a task of the user's own known by its name; called by a module given as --import.

  Raises:
    ConfigError: if the name is taken.
  """
  _check_new(task.name)
  _added[task.name] = task


def add_mixture(mixture: Mixture) -> None:
  """Makes a mixture of the user's own known by its name; called by a module given as --import.

  Raises:
    ConfigError: if the name is taken.
  """
  _check_new(mixture.name)
  _mixtures[mixture.name] = mixture


def get_mixture(name: str) -> Mixture:
  """Returns the mixture of that name, ours or seqio's, or else that of the task of that name alone.

  Of those of `downstream`, `get_components` says first which tasks have data.
  """
  if name not in [*task_names(), *_mixtures] and example_tasks.is_registered(name):
    components, rates = example_tasks.find_components(name)
    return Mixture(name, components, rates)
  return _mixtures.get(name) or Mixture(name, (name,), rates=(1.0,))


def get_components(
  name: str,
  *,
  feature_lengths: Mapping[str, int],
  text_files: str | Sequence[str] | None = None,
  skip_budget: int = 0,
  task_data_dir: str | os.PathLike[str] | None = None,
  vocabulary_path: str | os.PathLike[str] | None = None,
  tfds_data_dir: str | None = None,
) -> tuple[Task, ...]:
  """Returns the tasks of a mixture, or the task of that name; also those of seqio's registries.

  Tasks of `downstream` are registered with seqio, unless another module has done so.

  Args:
    name: of a mixture or a task.
    feature_lengths: of the run, for tasks of seqio's.
    text_files: globs; a mixture gives them to the one task that reads them.
    skip_budget: faulty documents of each task that may be skipped.
    task_data_dir: folder of the data sets' own files, for the tasks of `downstream`.
    vocabulary_path: see `get_task`.
    tfds_data_dir: see `get_task`.

  Raises:
    ConfigError: see `get_task`.
    DataError: a glob matches no file; a data set is not there; or two tasks have different
      vocabularies.
  """
  wanted = (name,) if registry.provides(name) else get_mixture(name).tasks
  for provided in filter(registry.provides, wanted):
    registry.register(
      provided,
      task_data_dir=task_data_dir,
      tfds_data_dir=tfds_data_dir,
      vocabulary_path=None if vocabulary_path is None else os.fspath(vocabulary_path),
    )
  names = get_mixture(name).tasks
  needed = TEXT_SPAN_CORRUPTION in names and len(names) > 1
  components = tuple(
    ExampleTask(task, feature_lengths)
    if task not in task_names() and example_tasks.is_registered(task)
    else dataclasses.replace(
      get_task(
        task,
        text_files=None if needed and task != TEXT_SPAN_CORRUPTION else text_files,
        vocabulary_path=vocabulary_path,
        tfds_data_dir=tfds_data_dir,
      ),
      skip_budget=skip_budget,
    )
    for task in names
  )
  _check_one_vocabulary(name, components)
  return components


def _check_one_vocabulary(name: str, components: Sequence[Task]) -> None:
  first = components[0]
  for task in components[1:]:
    if _same_file(first, task):
      continue
    vocabularies = [t.vocabulary() for t in (first, task)]
    if vocabularies[0].fingerprint != vocabularies[1].fingerprint:
      raise errors.DataError(
        f"The tasks of the mixture {name} have different vocabularies.",
        value="; ".join(
          f"{t.name}: {v.path}, {v.size} ids"
          for t, v in zip((first, task), vocabularies, strict=True)
        ),
        rule="one vocabulary, so that an id means the same in every row",
        remedy="give both tasks the same vocabulary file and extra_ids",
      )


def _same_file(first: Task, second: Task) -> bool:
  """Whether two vocabularies are equal without a look at them."""
  return (
    isinstance(first, SpanCorruptionTask)
    and isinstance(second, SpanCorruptionTask)
    and first.vocabulary_path == second.vocabulary_path
    and first.extra_ids == second.extra_ids
  )


def _check_new(name: str) -> None:
  if name in known_names():
    raise errors.ConfigError(
      "The name of a task is taken.", value=name, rule="each task has a name of its own"
    )


def _worth_suggesting(name: str) -> list[str]:
  """Returns the known names; of mC4's and of others the hundred only to who is close to one."""
  if name.startswith("mc4") or difflib.get_close_matches(name, registry.names()):
    return known_names()
  few = [known for known in (*task_names(), *_mixtures) if known not in MC4_LANGUAGES]
  return [*few, "mc4.<language>", "those of docs/guides/tasks.md"]


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
  path = vocabulary.on_this_host(vocabulary_path or vocabulary.embedded_vocabulary_path())
  if text_files and name in TASK_NAMES and name != TEXT_SPAN_CORRUPTION:
    raise errors.ConfigError(
      f"The task {name} does not read text files.",
      value=text_files,
      rule="it has a text of its own",
      remedy=f"choose the task {TEXT_SPAN_CORRUPTION}, or leave TEXT_FILES out.",
    )
  if name == EMBEDDED_SPAN_CORRUPTION:
    return SpanCorruptionTask(name, embedded_corpus.EmbeddedCorpus(), path)
  if name == FACT_MEMORY:
    return SpanCorruptionTask(name, fact_memory.FactMemory(), path)
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
    remedy=f"{errors.suggest(name, _worth_suggesting(name))} A module that registers tasks is given "
    "as --import=MODULE.",
  )
