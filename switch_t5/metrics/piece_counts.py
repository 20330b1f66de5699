# SPDX-License-Identifier: Apache-2.0
"""Which pieces each expert takes: counted on held-out text, written beside a run's metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
    self._routers, self._num_experts, self._piece = list(routers), num_experts, piece
    self._taken: list[list[np.ndarray]] = [[] for _ in self._routers]

  def add(self, taken: Iterable[np.ndarray | None]) -> None:
    """Adds a batch: (token id, expert) of choices, int32 [R, n, 2] of each stack; -1 is no token."""
    arrays = (array for array in taken if array is not None)
    rows = (row for array in arrays for row in np.asarray(array))
    for found, row in zip(self._taken, rows, strict=True):
      found.append(row[row[:, 0] >= 0])

  def as_json(self, step: int) -> dict[str, Any]:
    """Returns by router of each expert: its tokens, its commonest pieces with their shares of these,
    and its own: pieces of which most came to it, with how much of them.
    """
    routers = {
      name: self._of_router(np.concatenate(found))
      for name, found in zip(self._routers, self._taken, strict=True)
      if found
    }
    return {"step": step, "routers": routers}

  def _of_router(self, taken: np.ndarray) -> list[dict[str, Any]]:
    pairs, counts = np.unique(taken, axis=0, return_counts=True)
    _, at, of_piece = np.unique(taken[:, 0], return_inverse=True, return_counts=True)
    seen = dict(zip(taken[:, 0].tolist(), of_piece[at].tolist(), strict=True))
    experts = []
    for expert in range(self._num_experts):
      here = pairs[:, 1] == expert
      ids, its_counts = pairs[here, 0].tolist(), counts[here].tolist()
      tokens = sum(its_counts)
      shares = {i: count / tokens for i, count in zip(ids, its_counts, strict=True)}
      parts = {i: count / seen[i] for i, count in zip(ids, its_counts, strict=True)}
      own = {i: part for i, part in parts.items() if seen[i] >= _SEEN and part > _MOSTLY}
      experts.append({"tokens": tokens, "top": self._greatest(shares), "own": self._greatest(own)})
    return experts

  def _greatest(self, values: dict[int, float]) -> list[tuple[str, float]]:
    """Returns the pieces of the greatest values; ties go to the lower id."""
    ranked = sorted(values.items(), key=lambda item: (-item[1], item[0]))
    return [(self._piece(i), round(value, 4)) for i, value in ranked[:_LISTED]]
