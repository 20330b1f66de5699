# SPDX-License-Identifier: Apache-2.0
"""Small data sets in the form in which TFDS prepares C4 and mC4."""

from __future__ import annotations

import pathlib
from collections.abc import Collection

TEXT = pathlib.Path(__file__).parents[1] / "data" / "fixture.txt"
FEATURES = ("text", "url", "content-type", "content-length", "timestamp")


def prepare(
  folder: pathlib.Path,
  config: str,
  version: str,
  counts: dict[str, int],
  faulty: Collection[int] = (),
) -> None:
  """Prepares `c4/CONFIG:VERSION` in a TFDS data directory, with so many documents by split.

  Each split has three files; the documents of the numbers `faulty` are not UTF-8.
  """
  import tensorflow_datasets as tfds

  tfds.dataset_builders.store_as_tfds_dataset(
    name="c4",
    config=config,
    version=version,
    features=tfds.features.FeaturesDict({name: tfds.features.Text() for name in FEATURES}),
    split_datasets={
      split: [
        (number, _example(b"caf\xe9" if number in faulty else text))
        for number, text in enumerate(documents(split, count))
      ]
      for split, count in counts.items()
    },
    data_dir=folder,
    download_config=tfds.download.DownloadConfig(num_shards=3),
  )


def documents(split: str, count: int) -> list[str]:
  """Returns documents that differ from each other and between splits."""
  paragraphs = TEXT.read_text(encoding="utf-8").split("\n\n")
  return [f"{split} {i}. {paragraphs[i % len(paragraphs)]}" for i in range(count)]


def _example(text: str | bytes) -> dict[str, str | bytes]:
  return {**dict.fromkeys(FEATURES, "-"), "text": text}
