# SPDX-License-Identifier: Apache-2.0
"""SuperGLUE's tasks and mixtures, with T5's names."""

from __future__ import annotations

import functools

from switch_t5.data.downstream import formats, superglue_data
from switch_t5.data.downstream.datasets import Dataset
from switch_t5.data.downstream.task import DownstreamTask, Family
from switch_t5.scores import labels


def _labelled(name: str, dataset: Dataset, metrics=(labels.accuracy,), keys=()) -> DownstreamTask:
  return DownstreamTask(
    f"super_glue_{name}_v102",
    dataset,
    (functools.partial(formats.labelled, benchmark=name, labels=dataset.labels, keys=keys),),
    functools.partial(labels.label_number, labels=dataset.labels),
    metrics,
  )


FAMILY = Family(tasks=(_labelled("boolq", superglue_data.BOOLQ),))
