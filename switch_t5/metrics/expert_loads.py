# SPDX-License-Identifier: Apache-2.0
"""The load of every expert in a log line: a character each, and fewer lines the longer a run lasts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from switch_t5.metrics.train_metrics import MetricSums, relative_load

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_"
_PER_OCTAVE, _EVEN = 6, 31  # levels to a factor of two; the level of the mean, counted from 1
_PART = 100  # a line is due after a hundredth of the steps done


def of_window(steps: Sequence[MetricSums], routers: Sequence[str]) -> dict[str, str]:
  """Returns the loads of a window of steps by router, as `encode` writes them.

  Args:
    steps: at least one, on the host.
    routers: their names, in the order in which the model reports them.
  """
  load = np.sum([np.asarray(step.expert_load, np.float64) for step in steps], axis=0)
  return {name: encode(row) for name, row in zip(routers, relative_load(load), strict=True)}


def encode(relative: np.ndarray) -> str:
  """Returns a character for each expert: to 6% between a 32nd of the mean load and 32 times it.

  Args:
    relative: [E], loads over their mean.
  """
  level = np.round(_PER_OCTAVE * np.log2(np.maximum(relative, 1e-9))) + _EVEN
  places = np.where(relative > 0, 1 + np.clip(level, 0, len(_ALPHABET) - 2), 0).astype(int)
  return "".join(_ALPHABET[place] for place in places)


def decode(text: str) -> list[float]:
  """Returns loads over their mean, [E], as exactly as they were written.

  Raises:
    ValueError: for another character.
  """
  places = [_ALPHABET.index(character) for character in text]
  return [2.0 ** ((place - 1 - _EVEN) / _PER_OCTAVE) if place else 0.0 for place in places]


def is_due(step: int, last: int) -> bool:
  """Returns whether a line at `step` carries the loads, if the one at `last` did."""
  return step - last >= step // _PART
