# SPDX-License-Identifier: Apache-2.0
"""A picture of values with their intervals, one under the other."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from switch_t5.errors import ConfigError


class Entry(NamedTuple):
  """A line of the picture: a label, values of single runs, and a mean with its ends if there are any."""

  label: str
  points: Sequence[float]
  mean: float
  low: float | None = None
  high: float | None = None


def check_installed() -> None:
  """Raises ConfigError if the library that draws is not there."""
  if importlib.util.find_spec("matplotlib") is None:
    raise ConfigError(
      "matplotlib is not installed.",
      rule="a study's picture needs the extra `study`",
      remedy="pip install 'switch_t5[study]'",
    )


def draw(path: Path, entries: Sequence[Entry], title: str, axis: str) -> None:
  """Writes a PNG: small points for runs, a larger one and a bar for mean and interval.

  Args:
    path: of the file.
    entries: the first at the top.
    title: above the picture.
    axis: what the values are.
  """
  from matplotlib.figure import Figure  # without pyplot: no display, no state

  figure = Figure(figsize=(8, 0.6 * len(entries) + 1.4), layout="constrained")
  axes = figure.subplots()
  for height, entry in enumerate(reversed(entries)):
    axes.plot(entry.points, [height] * len(entry.points), "o", color="0.65", markersize=4)
    if entry.low is not None and entry.high is not None:
      axes.plot([entry.low, entry.high], [height, height], "-", color="C0")
    axes.plot([entry.mean], [height], "D", color="C0", markersize=6)
  axes.set_yticks(range(len(entries)), [entry.label for entry in reversed(entries)])
  axes.set_ylim(-0.6, len(entries) - 0.4)
  axes.axvline(0, color="0.8", linewidth=1, zorder=0)
  axes.set_xlabel(axis)
  axes.set_title(title)
  figure.savefig(path, dpi=150)
