# SPDX-License-Identifier: Apache-2.0
"""Summaries: CNN/DailyMail with T5's name and format, and XSum with ours, which is the same.

`summarize: ARTICLE` -> the summary; CNN/DailyMail's has a highlight per line, which the vocabulary
takes for a space. Both are read as JSON lines with TFDS's names of the features, the form in which
they are mostly passed on: what their authors publish are addresses of pages and scripts.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from switch_t5.data.downstream.datasets import Dataset, Example, jsonl
from switch_t5.data.downstream.task import DownstreamTask, Family
from switch_t5.scores import summarization

if TYPE_CHECKING:
  import tensorflow as tf

_FILES = {"train": "train.jsonl", "validation": "validation.jsonl", "test": "test.jsonl"}


def summarize(dataset: tf.data.Dataset, article: str, summary: str) -> tf.data.Dataset:
  """Makes inputs and targets of the features that hold an article and its summary."""

  def format_(example: Mapping[str, Any]) -> dict[str, Any]:
    return {"inputs": "summarize: " + example[article], "targets": example[summary]}

  return dataset.map(format_)


def _cnn_dailymail(row: Mapping[str, Any]) -> Iterator[Example]:
  yield {"publisher": "", **row}  # `cnn` or `dm`, which many copies lack


CNN_DAILYMAIL = Dataset(
  "cnn_dailymail:3.4.0",
  "cnn_dailymail",
  _FILES,
  dict.fromkeys(("article", "highlights", "publisher", "id"), "string"),
  jsonl(_cnn_dailymail),
)


def _xsum(row: Mapping[str, Any]) -> Iterator[Example]:
  yield dict(row)


XSUM = Dataset(
  "xsum:1.1.0", "xsum", _FILES, dict.fromkeys(("document", "summary"), "string"), jsonl(_xsum)
)


def _task(name: str, dataset: Dataset, article: str, summary: str) -> DownstreamTask:
  step = functools.partial(summarize, article=article, summary=summary)
  return DownstreamTask(name, dataset, (step,), metrics=(summarization.rouge,))


FAMILY = Family(
  tasks=(
    _task("cnn_dailymail_v002", CNN_DAILYMAIL, "article", "highlights"),
    _task("xsum_v001", XSUM, "document", "summary"),
  )
)
