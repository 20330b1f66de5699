# SPDX-License-Identifier: Apache-2.0
"""Published data sets: as TFDS prepares them, or as files in the form that their authors publish.

A reader of such files yields examples as TFDS's builder makes them, with the names of labels where it
has their numbers; `Dataset.examples` checks them, so that a fault is an error with its file and line.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from switch_t5 import errors
from switch_t5.data import file_copies, tfds_source
from switch_t5.storage.location import location

if TYPE_CHECKING:
  import seqio

# 'string', 'int32', 'int64' or 'float32'; with [] a list of these; a tuple: the names of labels,
# whose example has the number; or features by their names.
Feature = str | tuple[str, ...] | Mapping[str, "Feature"]
Example = dict[str, Any]
# Yields the place of each example in its file, and the example.
Reader = Callable[[Path], Iterator[tuple[str, Example]]]

TEST = "test"  # how splits begin that may lack labels
NO_LABEL = -1  # TFDS's
_PART = re.compile(r"(\w+)(?:\[(\d*):(\d*)\])?")
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")  # JSON can hold one, UTF-8 cannot
_TYPES: dict[str, type | tuple[type, ...]] = {
  "string": str,
  "int32": int,
  "int64": int,
  "float32": (int, float),
}


@dataclasses.dataclass(frozen=True)
class Dataset:
  """What is published, in two forms.

  Attributes:
    tfds: TFDS's name, with configuration and version; another one is read if that is not prepared.
    folder: of the published files, below TASK_DATA_DIR.
    files: the file of each split in that folder, by TFDS's names of the splits.
    features: of an example, as TFDS has them.
    read: reads one of the files.
    beside: suffix of a second file of each split, which `read` finds beside the first one.
  """

  tfds: str
  folder: str
  files: Mapping[str, str]
  features: Mapping[str, Feature]
  read: Reader
  beside: str = ""

  @property
  def labels(self) -> tuple[str, ...]:
    """The names of the feature `label`."""
    names = self.features["label"]
    assert isinstance(names, tuple)
    return names

  def paths(self, folder: Path, split: str) -> list[Path]:
    """Returns the files that a split, or what is made of splits, is read from."""
    paths = [folder / self.files[name] for name, _ in split_parts(split)]
    return paths + [path.with_suffix(self.beside) for path in paths if self.beside]

  def examples(self, folder: Path, split: str) -> list[Example]:
    """Returns the examples of a split from its files, with the features' types.

    Args:
      folder: of the files.
      split: one of the data set's, or made of them in TFDS's words (`split_parts`).

    Raises:
      DataError: a file cannot be read, the split is empty, or it has an example that is not as it
        should be.
    """
    read = [
      (place, example, name)
      for name, part in split_parts(split)
      for place, example in self._read(folder / self.files[name])[part]
    ]
    if not read:
      raise errors.DataError(
        f"The {split} split of {self.folder} is empty.",
        value=", ".join(map(str, self.paths(folder, split))),
        rule="at least one example",
        remedy="copy the published file again, whole (a part of a split may lie behind the end of a "
        "shorter one); or take it away, and the split is left out.",
      )
    return [
      {
        name: _checked(example, name, feature, place, published)
        for name, feature in self.features.items()
      }
      for place, example, published in read
    ]

  def _read(self, path: Path) -> list[tuple[str, Example]]:
    """Returns the examples of a file, with their places."""
    try:
      return list(self.read(path))
    except UnicodeDecodeError as error:
      raise malformed(str(path), f"it is UTF-8 ({error})") from error
    except OSError as error:
      raise errors.DataError(
        "A data set's file cannot be read.",
        value=error.filename or path,
        rule=f"a readable file ({error.strerror})",
      ) from error


def split_parts(split: str) -> list[tuple[str, slice]]:
  """Returns which examples of which splits make up one in TFDS's words: `train[:100]+validation`."""
  parts = []
  for text in split.split("+"):
    part = _PART.fullmatch(text)
    assert part, split
    start, stop = (int(number) if number else None for number in part.group(2, 3))
    parts.append((part[1], slice(start, stop)))
  return parts


def jsonl(parse: Callable[[Mapping[str, Any]], Iterable[Example]]) -> Reader:
  """Returns the reader of files of JSON lines.

  Args:
    parse: yields the examples of a line's object. What it does not find there, and whatever else
      makes it fail, is a fault of the line.
  """

  def read(path: Path) -> Iterator[tuple[str, Example]]:
    with path.open(encoding="utf-8") as file:
      for number, line in enumerate(file, start=1):
        if line.strip():
          place = f"{path}, line {number}"
          for example in parsed(parse, _object(line, place), place):
            yield place, example

  return read


def parsed(parse: Callable[[Any], Iterable[Any]], row: Any, place: str) -> list[Any]:
  """Returns the examples of a row; raises a DataError with the place if it is not as it should be."""
  try:
    return list(parse(row))
  except KeyError as error:
    raise malformed(place, f"it has the key {error}") from error
  except (AttributeError, IndexError, TypeError, ValueError) as error:
    raise malformed(place, f"the data set's published form ({error})") from error


def malformed(place: str, rule: str) -> errors.DataError:
  """Returns the error of an example that is not as it should be."""
  return errors.DataError(
    "An example is not as the data set has them.",
    value=place,
    rule=rule,
    remedy="mend or remove it, or copy the published file again.",
  )


def _object(line: str, place: str) -> Mapping[str, Any]:
  try:
    record = json.loads(line)
  except (ValueError, RecursionError) as error:
    detail = getattr(error, "msg", error)  # whose place in the text would be taken for the file's
    raise malformed(place, f"one JSON object per line ({detail})") from error
  if not isinstance(record, dict):
    raise malformed(place, "one JSON object per line")
  return record


def _checked(example: Any, name: str, feature: Feature, place: str, split: str) -> Any:
  """Returns one value of an example, checked and with labels as numbers."""
  if name not in example:
    raise malformed(place, f"it has the key {name!r}")
  value = example[name]
  if name == "label" and value is None and split.startswith(TEST):
    return NO_LABEL
  if isinstance(feature, Mapping):
    return {key: _checked(value, key, inner, place, split) for key, inner in feature.items()}
  if isinstance(feature, tuple):
    if value not in feature:
      raise malformed(place, f"{name} is {value!r}, and should be one of {', '.join(feature)}")
    return feature.index(value)
  values = value if feature.endswith("[]") else [value]
  if not isinstance(values, list) or not all(
    _is(item, feature.removesuffix("[]")) for item in values
  ):
    raise malformed(place, f"{name} is {value!r}, and should be {feature}")
  return value


def _is(value: object, kind: str) -> bool:
  if isinstance(value, str):
    return kind == "string" and not _HALF_CHARACTER.search(value)
  return isinstance(value, _TYPES[kind]) and not isinstance(value, bool)


def source(
  dataset: Dataset,
  task_data_dir: str | os.PathLike[str] | None,
  tfds_data_dir: str | None,
  splits: Iterable[str] | Mapping[str, str] | None = None,
) -> seqio.DataSource:
  """Returns a data set's source for seqio: its own files if they are there, else TFDS's.

  Args:
    dataset: which.
    task_data_dir: TASK_DATA_DIR, which holds the data sets' folders.
    tfds_data_dir: TFDS_DATA_DIR; None: TFDS's default.
    splits: those to be read, or what each is made of (`split_parts`); None: all. What is not there
      is left out.

  Raises:
    DataError: neither has any of the splits.
  """
  if not isinstance(splits, Mapping):
    splits = {split: split for split in splits or dataset.files}
  wanted = dict(splits)
  if task_data_dir is not None:
    folder = location(task_data_dir).expanduser() / dataset.folder
    names = {str(path) for made_of in wanted.values() for path in dataset.paths(Path(), made_of)}
    folder = file_copies.copy_folder(folder, names)
    there = {
      split: made_of
      for split, made_of in wanted.items()
      if all(path.is_file() for path in dataset.paths(folder, made_of))
    }
    if there:
      from switch_t5.data.downstream import local_source

      return local_source.LocalSource(dataset, folder, there)
  return _prepared(dataset, wanted, task_data_dir, tfds_data_dir)


def _prepared(
  dataset: Dataset,
  splits: dict[str, str],
  task_data_dir: str | os.PathLike[str] | None,
  tfds_data_dir: str | None,
) -> seqio.DataSource:
  """Returns TFDS's source of a data set that is prepared."""
  tfds_source.load_tensorflow()
  import seqio
  import tensorflow_datasets as tfds

  root = tfds_source.TfdsSource(dataset.tfds, (), tfds_data_dir).root()
  name, _, version = dataset.tfds.partition(":")
  prepared = tfds_source.prepared_versions(root, name)
  if prepared and version not in prepared:  # a version of TFDS makes one version of a data set
    version = prepared[-1]
  folder = tfds.core.Path(root) / name / version
  there = {}
  if version in prepared:
    known = tfds.builder_from_directory(folder).info.splits
    there = {
      split: made_of
      for split, made_of in splits.items()
      if all(name in known and known[name].num_examples for name, _ in split_parts(made_of))
    }
  if not there:
    names = (path.name for made_of in splits.values() for path in dataset.paths(Path(), made_of))
    files = ", ".join(dict.fromkeys(names))
    own = (
      location(task_data_dir) / dataset.folder
      if task_data_dir
      else f"TASK_DATA_DIR/{dataset.folder}"
    )
    raise errors.DataError(
      f"The data set {dataset.folder} is not there.",
      value=f"neither {files} in {own} nor {folder}",
      rule="its published files are in a folder below TASK_DATA_DIR, or TFDS has prepared it in "
      "TFDS_DATA_DIR",
      remedy=f"put {files} (one of them at least) into {own}; or, with a network, "
      f"tfds build {dataset.tfds} --data_dir={root}",
    )
  return seqio.TfdsDataSource(f"{name}:{version}", root, splits=there, read_only=True)
