# SPDX-License-Identifier: Apache-2.0
"""Translations of WMT from English, with T5's names and format.

`translate English to German: TEXT` -> the translation. The files are texts with a sentence per line,
two for each split, named after the languages: `train.de` and `train.en`. As in TFDS a pair with an
empty side is left out.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from switch_t5 import errors
from switch_t5.data.downstream.datasets import Dataset, Example, malformed
from switch_t5.data.downstream.task import DownstreamTask, Family
from switch_t5.scores import translation

if TYPE_CHECKING:
  import tensorflow as tf

_LANGUAGES = {"de": "German", "en": "English", "fr": "French", "ro": "Romanian"}


def translate(dataset: tf.data.Dataset, language: str) -> tf.data.Dataset:
  """Makes inputs and targets of a pair of sentences, from English to a language, by its code."""

  def format_(example: Mapping[str, Any]) -> dict[str, Any]:
    prefix = f"translate English to {_LANGUAGES[language]}: "
    return {"inputs": prefix + example["en"], "targets": example[language]}

  return dataset.map(format_)


def _pairs(path: Path) -> Iterator[tuple[str, Example]]:
  """Reads `NAME.xx` and `NAME.en`."""
  # Only line feeds end a line: sentences hold other characters that Python takes for ends.
  other = path.with_suffix(".en")
  foreign, english = (file.read_bytes().removesuffix(b"\n").split(b"\n") for file in (path, other))
  if len(foreign) != len(english):
    raise errors.DataError(
      "Two parallel texts are not of one length.",
      value=f"{path}: {len(foreign)} lines; {other}: {len(english)} lines",
      rule="line n of one is the translation of line n of the other",
      remedy="copy both files again.",
    )
  code = path.suffix.removeprefix(".")
  for number, pair in enumerate(zip(foreign, english, strict=True), start=1):
    if all(pair):
      place = f"{path} and {other.name}, line {number}"
      try:
        yield place, {code: pair[0].decode("utf-8"), "en": pair[1].decode("utf-8")}
      except UnicodeDecodeError as error:
        raise malformed(place, f"it is UTF-8 ({error})") from error


def _dataset(tfds: str, folder: str, code: str) -> Dataset:
  files = {split: f"{split}.{code}" for split in ("train", "validation", "test")}
  return Dataset(tfds, folder, files, {code: "string", "en": "string"}, _pairs, beside=".en")


WMT_ENDE = _dataset("wmt_t2t_translate/de-en:1.0.0", "wmt_t2t_ende", "de")
WMT15_ENFR = _dataset("wmt15_translate/fr-en:1.0.0", "wmt15_enfr", "fr")
WMT16_ENRO = _dataset("wmt16_translate/ro-en:1.0.0", "wmt16_enro", "ro")


def _task(dataset: Dataset, language: str) -> DownstreamTask:
  step = functools.partial(translate, language=language)
  return DownstreamTask(f"{dataset.folder}_v003", dataset, (step,), metrics=(translation.bleu,))


FAMILY = Family(tasks=(_task(WMT_ENDE, "de"), _task(WMT15_ENFR, "fr"), _task(WMT16_ENRO, "ro")))
