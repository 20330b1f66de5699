# SPDX-License-Identifier: Apache-2.0
"""GLUE's tasks and mixtures, with T5's names and rates.

WNLI is not in the mixture: T5 trains WSC and DPR in its place, and evaluates it as WSC.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from switch_t5.data.downstream import formats, glue_data
from switch_t5.data.downstream.datasets import Dataset
from switch_t5.data.downstream.task import DownstreamTask, Family
from switch_t5.scores import labels, superglue

_MNLI = "mnli"
_Metric = Callable[..., dict[str, float]]


def _labelled(
  name: str, dataset: Dataset, *metrics: _Metric, benchmark: str | None = None
) -> DownstreamTask:
  """Returns a task whose target is the name of a label; see `formats.labelled`."""
  return DownstreamTask(
    f"glue_{name}_v002",
    dataset,
    (functools.partial(formats.labelled, benchmark=benchmark or name, labels=dataset.labels),),
    functools.partial(labels.label_number, labels=dataset.labels),
    metrics,
  )


FAMILY = Family(
  tasks=(
    _labelled("cola", glue_data.COLA, labels.matthews),
    _labelled("sst2", glue_data.SST2, labels.accuracy),
    _labelled("mrpc", glue_data.MRPC, labels.f1_with_invalid, labels.accuracy),
    _labelled("qqp", glue_data.QQP, labels.f1_with_invalid, labels.accuracy),
    DownstreamTask(
      "glue_stsb_v002",
      glue_data.STSB,
      (formats.stsb,),
      labels.string_to_float,
      (labels.pearson, labels.spearman),
    ),
    _labelled(_MNLI, glue_data.MNLI, labels.accuracy),
    _labelled("mnli_matched", glue_data.MNLI_MATCHED, labels.accuracy, benchmark=_MNLI),
    _labelled("mnli_mismatched", glue_data.MNLI_MISMATCHED, labels.accuracy, benchmark=_MNLI),
    _labelled("qnli", glue_data.QNLI, labels.accuracy),
    _labelled("rte", glue_data.RTE, labels.accuracy),
    _labelled("wnli", glue_data.WNLI, labels.accuracy),
    _labelled("ax", glue_data.AX, benchmark=_MNLI),
    DownstreamTask(
      "glue_wnli_v002_simple_eval",
      glue_data.WNLI,
      (formats.wnli_as_wsc,),
      superglue.wsc_simple,
      (labels.accuracy,),
      splits=("validation", "test"),
    ),
  ),
  mixtures={
    # Numbers of training examples; 0 for what is only evaluated.
    "glue_v002_proportional": {
      "glue_cola_v002": 8551.0,
      "glue_sst2_v002": 67349.0,
      "glue_mrpc_v002": 3668.0,
      "glue_qqp_v002": 363849.0,
      "glue_stsb_v002": 5749.0,
      "glue_mnli_v002": 392702.0,
      "glue_qnli_v002": 104743.0,
      "glue_rte_v002": 2490.0,
      "glue_mnli_mismatched_v002": 0.0,
      "glue_mnli_matched_v002": 0.0,
      "glue_ax_v002": 0.0,
    },
    "glue_mnli_and_dev_v002": {
      "glue_mnli_v002": 1.0,
      "glue_mnli_mismatched_v002": 0.0,
      "glue_mnli_matched_v002": 0.0,
    },
  },
)
