# SPDX-License-Identifier: Apache-2.0
"""Adversarial NLI, its three rounds. T5 has no format for it; this is ours, in the form of T5's CB.

`anli hypothesis: H premise: C`, where C is the context -> `entailment`, `neutral` or `contradiction`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from switch_t5.data.downstream import formats
from switch_t5.data.downstream.datasets import Dataset, Example, jsonl
from switch_t5.data.downstream.task import DownstreamTask, Family
from switch_t5.scores import labels

_TEXTS = {"hypothesis": "hypothesis", "premise": "context"}
_LABELS = ("entailment", "neutral", "contradiction")  # in the order of the published e, n, c


def _row(row: Mapping[str, Any]) -> Iterator[Example]:
  yield dict(row)


def _task(number: int) -> DownstreamTask:
  dataset = Dataset(
    f"anli/r{number}:0.1.0",
    f"anli_v0.1/R{number}",
    {"train": "train.jsonl", "validation": "dev.jsonl", "test": "test.jsonl"},
    {**dict.fromkeys(("uid", "context", "hypothesis"), "string"), "label": ("e", "n", "c")},
    jsonl(_row),
  )
  step = functools.partial(formats.labelled, benchmark="anli", labels=_LABELS, texts=_TEXTS)
  postprocess = functools.partial(labels.label_number, labels=_LABELS)
  return DownstreamTask(f"anli_r{number}_v001", dataset, (step,), postprocess, (labels.accuracy,))


FAMILY = Family(tasks=tuple(map(_task, (1, 2, 3))))
