# SPDX-License-Identifier: Apache-2.0
"""Answers that are labels: how texts become numbers, and metrics of numbers, all times 100."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

INVALID = -1  # an answer that is no label; it is never a target's, so it counts as wrong


def label_number(
  text: str,
  example: Mapping[str, Any] | None = None,
  is_target: bool = False,
  *,
  labels: Sequence[str],
) -> int:
  """Returns the number of the label that a text is, or `INVALID`."""
  del example, is_target
  return labels.index(text) if text in labels else INVALID


def accuracy(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
  """Returns the share of predictions that equal their targets."""
  return {
    "accuracy": 100 * float(np.mean([t == p for t, p in zip(targets, predictions, strict=True)]))
  }
