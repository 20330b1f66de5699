# SPDX-License-Identifier: Apache-2.0
"""Which pieces each expert takes: counted on held-out text, written beside a run's metrics."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

PIECES_FILE = "pieces.json"
_LISTED = 20  # pieces of an expert
_SEEN = 10  # a piece is called an expert's own if it was seen so often, and
_MOSTLY = 0.5  # so much of it came there


class PieceCounts:
  """Counts the choices of routers by piece and expert.

  Args:
    routers: their names, in the order in which the model reports them.
    num_experts: E.
    piece: what a token id stands for.
  """

  def __init__(self, routers: Sequence[str], num_experts: int, piece: Callable[[int], str]):
    self._num_experts, self._piece = num_experts, piece
    # By (token id, expert), of each router.
    self._counts = {name: collections.Counter[tuple[int, int]]() for name in routers}

  def add(self, taken: Iterable[np.ndarray | None]) -> None:
    """Adds a batch: (token id, expert) of choices, int32 [R, n, 2] of each stack; -1 is no token."""
    arrays = (array for array in taken if array is not None)
    rows = (row for array in arrays for row in np.asarray(array))
    for found, row in zip(self._counts.values(), rows, strict=True):
      pairs, counts = np.unique(row[row[:, 0] >= 0], axis=0, return_counts=True)
      found.update(dict(zip(map(tuple, pairs.tolist()), counts.tolist(), strict=True)))

  def as_json(self, step: int) -> dict[str, Any]:
    """Returns by router of each expert: its tokens, its commonest pieces with their shares of these,
    and its own: pieces of which most came to it, with how much of them.
    """
    routers = {name: self._of_router(counts) for name, counts in self._counts.items()}
    return {"step": step, "routers": routers}

  def _of_router(self, counts: Mapping[tuple[int, int], int]) -> list[dict[str, Any]]:
    seen: dict[int, int] = collections.Counter()
    of_expert: list[dict[int, int]] = [{} for _ in range(self._num_experts)]
    for (token, expert), count in counts.items():
      seen[token] += count
      of_expert[expert][token] = count
    experts = []
    for found in of_expert:
      tokens = sum(found.values())
      shares = {token: count / tokens for token, count in found.items()}
      parts = {token: count / seen[token] for token, count in found.items() if seen[token] >= _SEEN}
      own = {token: part for token, part in parts.items() if part > _MOSTLY}
      experts.append({"tokens": tokens, "top": self._greatest(shares), "own": self._greatest(own)})
    return experts

  def _greatest(self, values: dict[int, float]) -> list[tuple[str, float]]:
    """Returns the pieces of the greatest values; ties go to the lower id."""
    ranked = sorted(values.items(), key=lambda item: (-item[1], item[0]))
    return [(self._piece(i), round(value, 4)) for i, value in ranked[:_LISTED]]
