# SPDX-License-Identifier: Apache-2.0
"""The curves of a study as a PNG, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from switch_t5.reports.study_page import Chart


def draw(path: Path, charts: Sequence[Chart]) -> None:
  """Writes a PNG with a picture for each chart.

  Args:
    path: of the file.
    charts: those without points are left out; where none has any, there is no file.
  """
  from matplotlib.figure import Figure  # without pyplot: no display, no state

  shown = [chart for chart in charts if any(points for _, points in chart.series)]
  if not shown:
    return
  figure = Figure(figsize=(7 * len(shown), 4.5), layout="constrained")
  for axes, chart in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
    for label, points in chart.series:
      if points:
        axes.plot(*zip(*points, strict=True), label=label)
    axes.set_title(chart.title)
    axes.set_xlabel(chart.caption, fontsize=8, wrap=True)
    axes.grid(color="0.9")
    axes.legend()
  figure.savefig(path, dpi=120)
