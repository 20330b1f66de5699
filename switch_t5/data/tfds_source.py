# SPDX-License-Identifier: Apache-2.0
"""Documents from TensorFlow Datasets: C4 and mC4, read while they are used.

What a data set is (its splits and the number of their documents) is read without TensorFlow, which
is loaded only to read the documents themselves.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import os
import re
from collections.abc import Iterator
from typing import Any

from switch_t5 import errors
from switch_t5.data import documents as documents_lib
from switch_t5.storage.location import location

TEXT_FEATURE = "text"
_DOCUMENTS_PER_BATCH = 256
_NOT_THE_MESSAGE = re.compile(r"\{\{.*?\}\} *| *\[Op:.*")  # of TensorFlow's errors

# The languages of mC4, as TFDS names its splits: CLD3's codes.
_CODES = (
  "af am ar az be bg bg-Latn bn ca ceb co cs cy da de el el-Latn en eo es et eu fa fi fil fr fy ga "
  "gd gl gu ha haw hi hi-Latn hmn ht hu hy id ig is it iw ja ja-Latn jv ka kk km kn ko ku ky la lb "
  "lo lt lv mg mi mk ml mn mr ms mt my ne nl no ny pa pl ps pt ro ru ru-Latn sd si sk sl sm sn so "
  "sq sr st su sv sw ta te tg th tr uk ur uz vi xh yi yo zh zh-Latn zu"
)
MC4_LANGUAGES = tuple(_CODES.split())


@dataclasses.dataclass(frozen=True)
class TfdsSource:
  """A prepared data set of TFDS whose feature `text` holds documents.

  TFDS shuffles the documents when it prepares a data set, so they are taken in its order.

  Attributes:
    name: of the data set, with configuration and version, e.g. `c4/en:2.2.0`.
    splits: TFDS's name of each split, by ours.
    data_dir: folder of prepared data sets, also on a bucket; None: TFDS's default, which is
      $TFDS_DATA_DIR or ~/tensorflow_datasets.
  """

  name: str
  splits: tuple[tuple[str, str], ...]
  data_dir: str | None = None

  def documents(self, budget: documents_lib.SkipBudget | None = None) -> dict[str, TfdsDocuments]:
    """Returns the documents of each split, which are read while they are iterated over.

    Args:
      budget: of documents that are not UTF-8; none may be skipped if it is not given.

    Raises:
      DataError: the data set is not prepared, or has no such split.
    """
    builder = self._builder()
    return {
      split: TfdsDocuments(
        builder,
        name,
        range(builder.info.splits[name].num_examples),
        budget or documents_lib.SkipBudget(),
      )
      for split, name in self.splits
    }

  def provenance(self) -> dict[str, str]:
    """Returns the data set and the number of documents of each split.

    Raises:
      DataError: the data set is not prepared, or has no such split.
    """
    splits = self._builder().info.splits
    counts = {split: str(splits[name].num_examples) for split, name in self.splits}
    return {"tfds": self.name} | counts

  def root(self) -> str:
    """Returns the folder of prepared data sets: `data_dir`, or TFDS's default."""
    import tensorflow_datasets as tfds

    if self.data_dir is not None and str(location(self.data_dir)).startswith("s3://"):
      raise errors.ConfigError(
        "TFDS's data sets are not read from s3://.",
        value=f"TFDS_DATA_DIR = {self.data_dir}",
        rule="TensorFlow reads them, from a file system or gs://",
        remedy="write a cache where the data set is on a disk, CACHE_DIR = 's3://...'; or mount the bucket",
      )
    return os.path.expanduser(self.data_dir or os.fspath(tfds.core.constants.DATA_DIR))

  def _builder(self) -> Any:
    """Returns TFDS's builder of the data set, a `tfds.core.DatasetBuilder`."""
    import tensorflow_datasets as tfds

    folder = tfds.core.Path(self.root()) / self.name.replace(":", "/")
    # TFDS writes this file last.
    if not (folder / "dataset_info.json").exists():
      raise self._not_prepared(folder)
    builder = tfds.builder_from_directory(folder)
    for _, split in self.splits:
      if split not in builder.info.splits:
        raise errors.DataError(
          f"The data set {self.name} has no such split.",
          value=split,
          rule=f"a split in {folder}",
          remedy=errors.suggest(split, builder.info.splits),
        )
    return builder

  def _not_prepared(self, folder: os.PathLike[str]) -> errors.DataError:
    return errors.DataError(
      f"The data set {self.name} is not there.",
      value=folder,
      rule="a data set that TFDS has prepared, in the folder TFDS_DATA_DIR",
      remedy="set TFDS_DATA_DIR to the folder or bucket that holds it, e.g. "
      "'gs://my-bucket/tensorflow_datasets'; or prepare it there, which takes a cluster with Apache "
      f"Beam: tfds build {self.name} --data_dir={self.root()} --beam_pipeline_options=..., see "
      "https://www.tensorflow.org/datasets/beam_datasets",
    )


@dataclasses.dataclass(frozen=True)
class TfdsDocuments:
  """Documents of one split in the order of its files, read each time they are iterated over.

  Attributes:
    builder: a `tfds.core.DatasetBuilder`.
    split: its name, as TFDS has it.
    numbers: of the documents, in steps of 1.
    budget: of faulty documents.
  """

  builder: Any
  split: str
  numbers: range
  budget: documents_lib.SkipBudget

  def __len__(self) -> int:
    return len(self.numbers)

  def __getitem__(self, part: slice) -> TfdsDocuments:
    return dataclasses.replace(self, numbers=self.numbers[part])

  def __iter__(self) -> Iterator[str]:
    if not self.numbers:
      return  # TFDS refuses an empty range
    load_tensorflow()
    import tensorflow as tf
    import tensorflow_datasets as tfds

    number = self.numbers.start
    try:
      for batch in tfds.as_numpy(self._batches()):
        for text in batch[TEXT_FEATURE]:
          try:
            yield text.decode("utf-8")
          except UnicodeDecodeError as error:
            self.budget.skip(self._fault(number, error))
          number += 1
    except tf.errors.OpError as error:
      raise self._unreadable(number, error) from error

  def _batches(self) -> Any:
    """Returns a `tf.data.Dataset` of batches of the documents."""
    import tensorflow_datasets as tfds

    return self.builder.as_dataset(
      split=f"{self.split}[{self.numbers.start}:{self.numbers.stop}]",
      decoders=tfds.decode.PartialDecoding({TEXT_FEATURE: True}),
      batch_size=_DOCUMENTS_PER_BATCH,
      # One file after the other: else the order within a range depends on where it begins.
      read_config=tfds.ReadConfig(interleave_cycle_length=1),
    )

  def _fault(self, number: int, error: UnicodeDecodeError) -> errors.DataError:
    return errors.DataError(
      "A document is not UTF-8.",
      value=f"{self.builder.info.full_name}, split {self.split}, document {number} "
      f"(byte {error.start} of it): {error.object[error.start : error.start + 4]!r}",
      rule=f"text is UTF-8 ({error.reason})",
      remedy="mend it and prepare the data set again.",
    )

  def _unreadable(self, number: int, error: Exception) -> errors.DataError:
    """Returns the error of files that cannot be read on at a document, or soon after it."""
    last = min(number + _DOCUMENTS_PER_BATCH, self.numbers.stop) - 1
    info = self.builder.info.splits[self.split]
    ends = list(itertools.accumulate(info.shard_lengths))
    first_file, last_file = (bisect.bisect_right(ends, n) for n in (number, last))
    files = [os.fspath(path) for path in info.filepaths[first_file : last_file + 1]]
    return errors.DataError(
      "A data set cannot be read.",
      value=f"{self.builder.info.full_name}, split {self.split}, documents {number} to {last}: "
      f"{', '.join(files)}",
      rule=f"whole files of TFDS ({_NOT_THE_MESSAGE.sub('', str(error).splitlines()[0])})",
      remedy="copy the file again, or prepare the data set again: what follows a damaged record "
      "cannot be read, so it cannot be skipped.",
    )


def c4(version: str, data_dir: str | None) -> TfdsSource:
  """Returns English C4, cleaned."""
  splits = ((documents_lib.TRAIN, "train"), (documents_lib.VALIDATION, "validation"))
  return TfdsSource(f"c4/en:{version}", splits, data_dir)


def mc4(language: str, data_dir: str | None) -> TfdsSource:
  """Returns one of the `MC4_LANGUAGES`."""
  splits = ((documents_lib.TRAIN, language), (documents_lib.VALIDATION, f"{language}-validation"))
  return TfdsSource("c4/multilingual:3.0.1", splits, data_dir)


def prepared_versions(root: str, name: str) -> list[str]:
  """Returns the versions of a data set that TFDS has prepared in a folder, oldest first."""
  import tensorflow_datasets as tfds

  folder = tfds.core.Path(root) / name
  # TFDS writes this file last.
  found = folder.glob("*/dataset_info.json") if folder.exists() else []
  return sorted((path.parent.name for path in found), key=tfds.core.Version)


def load_tensorflow() -> None:
  """Imports TensorFlow, quiet and on the CPU alone: JAX has the accelerators."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when it is imported
  import tensorflow as tf

  tf.config.set_visible_devices([], "GPU")
