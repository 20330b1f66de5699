# SPDX-License-Identifier: Apache-2.0
"""What a task of the paper's section 4 is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from switch_t5.data.downstream.datasets import Dataset


@dataclasses.dataclass(frozen=True)
class DownstreamTask:
  """A data set as text to text, and how answers are scored.

  Attributes:
    name: T5's.
    dataset: what is published.
    preprocessors: steps from its examples to the texts `inputs` and `targets`, as seqio has them:
      functions of a `tf.data.Dataset`. What else an example holds is there for `postprocess`.
    postprocess: what a decoded text means: f(text, example=None, is_target=False).
    metrics: of the task: f(targets, predictions), which are what `postprocess` returns.
    splits: the data set's splits that the task has, or what each of its splits is made of, in TFDS's
      words (`train[:100]`, `train+validation`); None: all of the data set's.
    sentinel_of: the task that this one is with a sentinel around the gap: `<extra_id_0>` ends the
      inputs and opens the targets.
  """

  name: str
  dataset: Dataset
  preprocessors: tuple[Callable[..., Any], ...]
  postprocess: Callable[..., Any] | None = None
  metrics: tuple[Callable[..., dict[str, float]], ...] = ()
  splits: tuple[str, ...] | Mapping[str, str] | None = None
  sentinel_of: str | None = None


@dataclasses.dataclass(frozen=True)
class Family:
  """Tasks that are published together.

  Attributes:
    tasks: all of them.
    mixtures: by name: the rate of each of its tasks; 0 for what is only evaluated.
  """

  tasks: tuple[DownstreamTask, ...]
  mixtures: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
