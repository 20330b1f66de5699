# SPDX-License-Identifier: Apache-2.0
"""More experts at equal FLOPs per token: Figures 1, 4, 5, 6 and 12 of the paper, and the law over them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from switch_t5.reports.study_page import Chart
from switch_t5.studies.curves import (
  Run,
  held_out,
  quality,
  tokens_per_second,
)
from switch_t5.studies.family import (
  QUALITY,
  SPEED,
  Arm,
  Beside,
  Family,
  Measure,
  Runs,
  arm_curves,
  shown,
)
from switch_t5.studies.paired import CONFIDENCE, Interval, half_width

DENSE = "dense"
EXPERTS = (2, 4, 8, 16)
# Figure 12, after 90,000 steps, read off the picture; of 16 experts it has none.
_PAPER = {2: "-1.683", 4: "-1.650", 8: "-1.605"}


class Law(NamedTuple):
  """log L = a log N + b log E + c log N log E + d (Clark et al. 2022, eq. 1), fitted by least squares.

  Attributes:
    coefficients: by name, with intervals where more points than coefficients leave an error to judge
      by; those that the points do not determine are left out.
    points: how many.
    residual: root mean square of what is left, in log L.
  """

  coefficients: Mapping[str, Interval | float]
  points: int
  residual: float


def fit(points: Sequence[tuple[float, float, float]]) -> Law:
  """Returns the law over (N, E, L): parameters of the dense model, experts, nats per token.

  With models of one size a and c are left out, with one number of experts b and c: nothing in such points
  tells them from d.
  """
  sizes, experts, losses = (np.log([point[i] for point in points]) for i in range(3))
  columns = {"d": np.ones(len(points))}
  if np.ptp(sizes) > 0:
    columns["a"] = sizes
  if np.ptp(experts) > 0:
    columns["b"] = experts
  if len(columns) == 3:
    columns["c"] = sizes * experts
  matrix = np.stack(list(columns.values()), axis=1)
  found, _, rank, _ = np.linalg.lstsq(matrix, losses)
  if rank < len(columns):
    raise ValueError(f"{len(points)} points do not determine {', '.join(columns)}")
  left = losses - matrix @ found
  free = len(points) - len(columns)
  coefficients: dict[str, Interval | float] = dict(zip(columns, map(float, found), strict=True))
  if free > 0:
    errors = np.sqrt(np.diag(np.linalg.inv(matrix.T @ matrix)) * (left @ left) / free)
    for name, value, error in zip(columns, found, errors, strict=True):
      half = half_width(float(error), free)
      coefficients[name] = Interval(float(value), float(value) - half, float(value) + half)
  return Law(coefficients, len(points), float(np.sqrt(np.mean(left**2))))


def _points(runs: Runs) -> list[tuple[float, float, float]]:
  """Returns (N, E, L) of every run that reached its end; a dense model is one expert."""
  size = runs[DENSE][0].facts["parameters"]
  return [
    (size, max(run.facts["num_experts"], 1.0), -found)
    for of_arm in runs.values()
    for run in of_arm
    if (found := quality(run)) is not None
  ]


def _law_sentences(law: Law) -> list[str]:
  b, d = law.coefficients.get("b"), law.coefficients["d"]
  if not isinstance(b, Interval) or not isinstance(d, Interval):
    return ["The points are too few for a law over them."]
  return [
    f"Law of Clark et al. (2022), log L = a log N + b log E + c log N log E + d, over {law.points} runs: all are "
    "of one size N, so that a and c cannot be told from d and are not fitted. "
    f"b = {shown(b, '+.5f')}, d = {shown(d, '.4f')} ({CONFIDENCE:.0%} intervals, runs taken as independent; "
    f"what is left is {law.residual:.4f} in log L): each doubling of the experts multiplies the loss by "
    f"{2**b.estimate:.4f}{'' if b.is_clear_of_zero else ', inside the noise'}. The dense model counts as one expert. The law's saturating count of experts has two "
    "more constants, for which these points are too few."
  ]


def _flops_sentence(runs: Runs) -> str:
  counts = {run.facts["flops_per_sequence"] for of_arm in runs.values() for run in of_arm}
  least, most = min(counts), max(counts)
  if math.isclose(least, most, rel_tol=1e-9):
    return f"All arms take {least:.4g} forward FLOPs for a sequence pair (Table 9's count, routers left out)."
  return f"The arms do not take equal FLOPs: {least:.4g} to {most:.4g} for a sequence pair."


def beside(runs: Runs) -> Beside:
  """Returns what Figures 5 and 6 and the law say."""
  law = fit(_points(runs))
  series = arm_curves(SCALING, runs, lambda run: _in_time(run, runs))
  chart = Chart(
    "Quality in time",
    "negative log perplexity held out, over the time of so many steps of the dense model, mean over seeds",
    series,
  )
  content: dict[str, Any] = {
    "law": {
      "points": law.points,
      "residual": law.residual,
      "coefficients": {
        name: value._asdict() if isinstance(value, Interval) else value
        for name, value in law.coefficients.items()
      },
    }
  }
  sentences = [
    "Speed-ups are those of the paper: the dense model's steps (or its training time) over those after which an "
    "arm is as good as the dense model at its end, between two evaluations by a straight line; time is each run's "
    "median pace, without compilation, evaluation and checkpoints.",
    _flops_sentence(runs)
    + " The dense model begins as the others do, with a tenth of the variance of T5's first parameters: else "
    "these would be compared.",
    *_law_sentences(law),
  ]
  return Beside(sentences, charts=[chart], content=content)


def _in_time(run: Run, runs: Runs) -> list[tuple[float, float]]:
  """Returns a run's curve over time, in steps of the dense model.

  At its arm's mean pace, so that the points of all seeds lie at the same places.
  """
  by_seed = {dense.seed: dense for dense in runs[DENSE]}
  ratios = [
    own / other
    for of_arm in runs[run.arm]
    if (own := tokens_per_second(of_arm)) and (other := tokens_per_second(by_seed[of_arm.seed]))
  ]
  if not ratios:
    return []
  pace = sum(ratios) / len(ratios)
  return [(step / pace, value) for step, value in held_out(run)]


def _arms() -> tuple[Arm, ...]:
  dense = Arm(DENSE, "dense", "studies/dense_{size}.gin", paper={"quality": "-1.693"})
  sparse = (
    Arm(
      f"experts{count}",
      f"{count} experts",
      bindings=(f"NUM_EXPERTS = {count}",),
      timed_as=None if count in (EXPERTS[0], EXPERTS[-1]) else f"experts{EXPERTS[-1]}",
      paper={"quality": _PAPER[count]} if count in _PAPER else {},
    )
    for count in EXPERTS
  )
  return (dense, *sparse)


SCALING = Family(
  "scaling",
  "Scaling (Figures 1, 4, 5, 6 and 12)",
  _arms(),
  DENSE,
  (
    QUALITY,
    *SPEED,
    Measure("parameters", "parameters", lambda run, base: run.facts["parameters"], ",.0f"),
  ),
  beside=beside,
)
