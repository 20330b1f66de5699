# SPDX-License-Identifier: Apache-2.0
"""GLUE's data sets: their features, and their published tables as TFDS reads them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from absl import logging

from switch_t5.data.downstream import datasets
from switch_t5.data.downstream.datasets import Dataset, Example, Feature, Reader

_FILES = {"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv"}
_ENTAILMENT = ("entailment", "not_entailment")
_MNLI_LABELS = ("entailment", "neutral", "contradiction")
_COLA_COLUMNS = ("source", "label", "star", "sentence")


def _dataset(
  name: str,
  folder: str,
  texts: Mapping[str, str],
  label: str,
  labels: Sequence[str] | None,
  *,
  files: Mapping[str, str] = _FILES,
  columns: Callable[[Path], Sequence[str] | None] = lambda path: None,
) -> Dataset:
  """Returns a data set of tables.

  Args:
    name: TFDS's.
    folder: of its files.
    texts: the column of each text.
    label: the column of the label.
    labels: their names; None: labels are numbers.
    files: of the splits.
    columns: the columns of a file that does not name them in its first line.
  """
  kind: Feature = "float32" if labels is None else tuple(labels)
  return Dataset(
    f"glue/{name}:2.0.0",
    folder,
    files,
    {**dict.fromkeys(texts, "string"), "idx": "int32", "label": kind},
    _table(texts, label, labels, columns),
  )


def _table(
  texts: Mapping[str, str],
  label: str,
  labels: Sequence[str] | None,
  columns: Callable[[Path], Sequence[str] | None],
) -> Reader:
  """Returns the reader of a table with tabs between its columns; see `_dataset`."""

  def example(row: Mapping[str, str]) -> Iterator[Example]:
    yield {
      **{name: row[column] for name, column in texts.items()},
      "label": _label(row[label], labels) if label in row else None,
    }

  def read(path: Path) -> Iterator[tuple[str, Example]]:
    cut = 0
    with path.open(encoding="utf-8-sig") as file:
      rows = csv.DictReader(file, columns(path), delimiter="\t", quoting=csv.QUOTE_NONE)
      for number, (line, row) in enumerate(_lines(rows, path)):
        if any(row.get(column, "") is None for column in (*texts.values(), label)):
          cut += 1  # QQP has such rows
          continue
        place = f"{path}, line {line}"
        for made in datasets.parsed(example, row, place):
          yield place, {**made, "idx": number}
    if cut:
      logging.warning("%s: %d rows lack columns and are left out, as TFDS does.", path, cut)

  return read


def _lines(rows: csv.DictReader[str], path: Path) -> Iterator[tuple[int, Mapping[str, str]]]:
  """Yields the rows of a table and the lines that they end at."""
  try:
    for row in rows:
      yield rows.line_num, row
  except csv.Error as error:
    raise datasets.malformed(f"{path}, line {rows.line_num + 1}", f"a table ({error})") from error


def _label(text: str, labels: Sequence[str] | None) -> str | float:
  """Returns a label's name or number, given one of both."""
  if labels is None:
    return float(text)
  return dict(enumerate(labels)).get(int(text), text) if text.isdecimal() else text


def _columns_of_cola(path: Path) -> Sequence[str] | None:
  return None if path.name == _FILES["test"] else _COLA_COLUMNS


def _pair(first: str, second: str) -> dict[str, str]:
  return {first: first, second: second}


_SENTENCES = _pair("sentence1", "sentence2")
_NLI = {"premise": "sentence1", "hypothesis": "sentence2"}


def _mnli(name: str, files: Mapping[str, str]) -> Dataset:
  return _dataset(name, "MNLI", _NLI, "gold_label", _MNLI_LABELS, files=files)


COLA = _dataset(
  "cola",
  "CoLA",
  {"sentence": "sentence"},
  "label",
  ("unacceptable", "acceptable"),
  columns=_columns_of_cola,
)
SST2 = _dataset("sst2", "SST-2", {"sentence": "sentence"}, "label", ("negative", "positive"))
MRPC = _dataset(
  "mrpc",
  "MRPC",
  {"sentence1": "#1 String", "sentence2": "#2 String"},
  "Quality",
  ("not_equivalent", "equivalent"),
)
QQP = _dataset(
  "qqp",
  "QQP",
  _pair("question1", "question2"),
  "is_duplicate",
  ("not_duplicate", "duplicate"),
)
STSB = _dataset("stsb", "STS-B", _SENTENCES, "score", None)
MNLI = _mnli(
  "mnli",
  {
    "train": "train.tsv",
    "validation_matched": "dev_matched.tsv",
    "validation_mismatched": "dev_mismatched.tsv",
    "test_matched": "test_matched.tsv",
    "test_mismatched": "test_mismatched.tsv",
  },
)
MNLI_MATCHED = _mnli("mnli_matched", {"validation": "dev_matched.tsv", "test": "test_matched.tsv"})
MNLI_MISMATCHED = _mnli(
  "mnli_mismatched", {"validation": "dev_mismatched.tsv", "test": "test_mismatched.tsv"}
)
QNLI = _dataset("qnli", "QNLI", _pair("question", "sentence"), "label", _ENTAILMENT)
RTE = _dataset("rte", "RTE", _SENTENCES, "label", _ENTAILMENT)
WNLI = _dataset("wnli", "WNLI", _SENTENCES, "label", _ENTAILMENT[::-1])
AX = _dataset("ax", "diagnostic", _NLI, "Label", _MNLI_LABELS, files={"test": "diagnostic.tsv"})
