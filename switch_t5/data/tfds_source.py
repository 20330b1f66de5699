# SPDX-License-Identifier: Apache-2.0
"""Documents from TensorFlow Datasets: C4 and mC4, read while they are used.

What a data set is (its splits and the number of their documents) is read without TensorFlow, which
is loaded only to read the documents themselves.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

from switch_t5 import errors
from switch_t5.data import documents as documents_lib

TEXT_FEATURE = "text"
_DOCUMENTS_PER_BATCH = 256

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

  def documents(self) -> dict[str, TfdsDocuments]:
    """Returns the documents of each split, which are read while they are iterated over.

    Raises:
      DataError: the data set is not prepared, or has no such split.
    """
    builder = self._builder()
    return {
      split: TfdsDocuments(builder, name, range(builder.info.splits[name].num_examples))
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
  """

  builder: Any
  split: str
  numbers: range

  def __len__(self) -> int:
    return len(self.numbers)

  def __getitem__(self, part: slice) -> TfdsDocuments:
    return dataclasses.replace(self, numbers=self.numbers[part])

  def __iter__(self) -> Iterator[str]:
    if not self.numbers:
      return  # TFDS refuses an empty range
    load_tensorflow()
    import tensorflow_datasets as tfds

    dataset = self.builder.as_dataset(
      split=f"{self.split}[{self.numbers.start}:{self.numbers.stop}]",
      decoders=tfds.decode.PartialDecoding({TEXT_FEATURE: True}),
      batch_size=_DOCUMENTS_PER_BATCH,
      # One file after the other: else the order within a range depends on where it begins.
      read_config=tfds.ReadConfig(interleave_cycle_length=1),
    )
    for batch in tfds.as_numpy(dataset):
      for text in batch[TEXT_FEATURE]:
        yield text.decode("utf-8")


def c4(version: str, data_dir: str | None) -> TfdsSource:
  """Returns English C4, cleaned."""
  splits = ((documents_lib.TRAIN, "train"), (documents_lib.VALIDATION, "validation"))
  return TfdsSource(f"c4/en:{version}", splits, data_dir)


def mc4(language: str, data_dir: str | None) -> TfdsSource:
  """Returns one of the `MC4_LANGUAGES`."""
  splits = ((documents_lib.TRAIN, language), (documents_lib.VALIDATION, f"{language}-validation"))
  return TfdsSource("c4/multilingual:3.0.1", splits, data_dir)


def load_tensorflow() -> None:
  """Imports TensorFlow, quiet and on the CPU alone: JAX has the accelerators."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when it is imported
  import tensorflow as tf

  tf.config.set_visible_devices([], "GPU")
