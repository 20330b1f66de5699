# SPDX-License-Identifier: Apache-2.0
"""SuperGLUE's tasks and mixtures, with T5's names and rates.

WSC is trained and scored as a referent task (section 2.3 of *T5*), with DPR beside it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from switch_t5.data.downstream import formats, superglue_data
from switch_t5.data.downstream.datasets import Dataset
from switch_t5.data.downstream.task import DownstreamTask, Family
from switch_t5.scores import labels, superglue

_TRAIN, _EVAL = "_train", "_eval"
_SENTINEL = "_1_sentinel"
_HYPOTHESIS_PREMISE = {"hypothesis": "sentence2", "premise": "sentence1"}


def _labelled(
  name: str,
  dataset: Dataset,
  metrics: Sequence[Callable[..., dict[str, float]]] = (labels.accuracy,),
  *,
  benchmark: str | None = None,
  texts: Mapping[str, str] | None = None,
  steps: Sequence[Callable[..., Any]] = (),
  postprocess: Callable[..., Any] | None = None,
) -> DownstreamTask:
  """Returns a task whose target is the name of a label; see `formats.labelled`."""
  format_ = functools.partial(
    formats.labelled, benchmark=benchmark or name, labels=dataset.labels, texts=texts
  )
  return DownstreamTask(
    f"super_glue_{name}_v102",
    dataset,
    (format_, *steps),
    postprocess or functools.partial(labels.label_number, labels=dataset.labels),
    tuple(metrics),
  )


def _same(*names: str) -> dict[str, str]:
  return {name: name for name in names}


def _sentinel_name(name: str) -> str:
  """Returns seqio's name of a task with a sentinel."""
  for suffix in (_TRAIN, _EVAL):
    if name.endswith(suffix):
      return name.removesuffix(suffix) + _SENTINEL + suffix
  return name + _SENTINEL


_WSC = "super_glue_wsc_v102_simple"
_TASKS = (
  _labelled("boolq", superglue_data.BOOLQ),
  _labelled("cb", superglue_data.CB, (labels.mean_multiclass_f1(num_classes=3), labels.accuracy)),
  _labelled("copa", superglue_data.COPA),
  _labelled(
    "multirc",
    superglue_data.MULTIRC,
    (
      superglue.multirc_f1_over_all_answers,
      superglue.mean_group_metric(superglue.exact_match),
    ),
    texts=_same("question", "answer", "paragraph"),
    steps=(formats.without_markup,),
    postprocess=superglue.multirc,
  ),
  DownstreamTask(
    "super_glue_record_v102",
    superglue_data.RECORD,
    (formats.record,),
    superglue.record,
    (superglue.record_squad,),
  ),
  _labelled("rte", superglue_data.RTE),
  _labelled("wic", superglue_data.WIC, texts=_same("sentence1", "sentence2", "word")),
  DownstreamTask(
    _WSC + _TRAIN,
    superglue_data.WSC,
    (functools.partial(formats.wsc, only_right=True),),
    splits=("train",),
  ),
  DownstreamTask(
    _WSC + _EVAL,
    superglue_data.WSC,
    (functools.partial(formats.wsc, only_right=False),),
    superglue.wsc_simple,
    (labels.accuracy,),
    splits=("validation", "test"),
  ),
  DownstreamTask("dpr_v001_simple", superglue_data.DPR, (formats.dpr,), None, (labels.accuracy,)),
  _labelled("axb", superglue_data.AXB, (), benchmark="rte", texts=_HYPOTHESIS_PREMISE),
  _labelled("axg", superglue_data.AXG, (), benchmark="rte"),
)
# Numbers of training examples; 0 for what is only evaluated.
_RATES = {
  "super_glue_boolq_v102": 9427.0,
  "super_glue_cb_v102": 250.0,
  "super_glue_copa_v102": 400.0,
  "super_glue_multirc_v102": 27243.0,
  "super_glue_record_v102": 138854.0,
  "super_glue_rte_v102": 2490.0,
  "super_glue_wic_v102": 5428.0,
  "super_glue_wsc_v102_simple_train": 259.0,
  "super_glue_wsc_v102_simple_eval": 0.0,
  "dpr_v001_simple": 1322.0,
  "super_glue_axb_v102": 0.0,
  "super_glue_axg_v102": 0.0,
}
_WSC_DPR = ("dpr_v001_simple", _WSC + _TRAIN, _WSC + _EVAL)

FAMILY = Family(
  tasks=(
    *_TASKS,
    *(
      dataclasses.replace(task, name=_sentinel_name(task.name), sentinel_of=task.name)
      for task in _TASKS
    ),
  ),
  mixtures={
    "super_glue_v102_proportional": _RATES,
    # Ours: each data set as often, which for the same number of examples of each is proportional.
    "super_glue_v102_equal": {name: float(rate > 0) for name, rate in _RATES.items()},
    "super_glue_v102_proportional_sentinel": {
      _sentinel_name(name): rate for name, rate in _RATES.items()
    },
    "wsc_dpr_simple_proportional": {name: _RATES[name] for name in _WSC_DPR},
  },
)
