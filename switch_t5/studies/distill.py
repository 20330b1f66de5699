# SPDX-License-Identifier: Apache-2.0
"""Table 6 of the paper: what a dense student keeps of a Switch teacher's gain, and by which means."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from switch_t5.studies.paired import CONFIDENCE, Interval, mean_interval, ratio_interval

DENSE, TEACHER = "dense", "teacher"


class Arm(NamedTuple):
  """One way to train, a row of the table.

  Attributes:
    name: of its folders and in JSON.
    title: in the table.
    paper: its quality there, a negative log perplexity in nats per token.
    starts_from_teacher: whether what student and teacher share is copied from the teacher.
    fraction_soft: weight of the teacher's probabilities in the loss; None: targets alone.
  """

  name: str
  title: str
  paper: float
  starts_from_teacher: bool = False
  fraction_soft: float | None = None

  @property
  def needs_teacher(self) -> bool:
    """Whether the teacher must be trained first."""
    return self.starts_from_teacher or self.fraction_soft is not None


# In the order in which they are trained. The paper does not say the fraction of its second and third
# student; without a mix it is the whole loss.
ARMS = (
  Arm(DENSE, "dense, no help", -1.636),
  Arm(TEACHER, "teacher: Switch", -1.444),
  Arm("distilled", "distillation", -1.631, fraction_soft=1.0),
  Arm("distilled_from_teacher", "+ first parameters of the teacher", -1.598, True, 1.0),
  Arm("mixed_from_teacher", "+ 0.75 targets, 0.25 teacher", -1.580, True, 0.25),
  Arm("from_teacher", "first parameters alone", -1.639, True),
)


class Row(NamedTuple):
  """What is known of an arm.

  Attributes:
    arm: which.
    quality: mean over seeds of the negative log perplexity on the validation split, nats per token.
    gain: over the dense student of the same seed; None of the dense one.
    share: of the teacher's gain; None of dense and teacher, or if that gain is not clear of 0.
  """

  arm: Arm
  quality: float
  gain: Interval | None
  share: Interval | None


def rows(qualities: Mapping[str, Sequence[float]]) -> list[Row]:
  """Returns the table.

  Args:
    qualities: by arm, those of each seed, in the same order of seeds, at least two.
  """
  dense = qualities[DENSE]
  gains = {
    name: [one - other for one, other in zip(values, dense, strict=True)]
    for name, values in qualities.items()
  }
  # Below 0 it is clear of 0 too: nothing is kept of a loss.
  better = mean_interval(gains[TEACHER]).low > 0
  found = []
  for arm in ARMS:
    gain = None if arm.name == DENSE else mean_interval(gains[arm.name])
    is_student = better and arm.name not in (DENSE, TEACHER)
    share = ratio_interval(gains[arm.name], gains[TEACHER]) if is_student else None
    found.append(Row(arm, statistics.fmean(qualities[arm.name]), gain, share))
  return found


def paper_share(arm: Arm) -> float:
  """Returns the paper's share of the teacher's gain, from its qualities."""
  dense, teacher = (next(a.paper for a in ARMS if a.name == name) for name in (DENSE, TEACHER))
  return (arm.paper - dense) / (teacher - dense)


def compression(parameters: Mapping[str, int]) -> float:
  """Returns the part of the teacher's parameters that the student does without."""
  return 1 - parameters[DENSE] / parameters[TEACHER]


def report(table: Sequence[Row], parameters: Mapping[str, int], seeds: int) -> str:
  """Returns the table in Markdown, the paper's numbers beside ours, and what it says.

  Args:
    table: from `rows`.
    parameters: of the dense model and the teacher.
    seeds: how many.
  """
  lines = [
    "| | paper: quality | share kept | here: quality | gain over dense | share kept |",
    "|---|---|---|---|---|---|",
  ]
  for row in table:
    is_student = row.arm.name not in (DENSE, TEACHER)
    cells = [
      row.arm.title,
      f"{row.arm.paper:.3f}",
      f"{paper_share(row.arm):.0%}" if is_student else "",
      f"{row.quality:.4f}",
      "" if row.gain is None else _interval(row.gain, "+.4f"),
      "" if row.share is None else _interval(row.share, ".0%"),
    ]
    lines.append("| " + " | ".join(cells) + " |")
  gain = next(row.gain for row in table if row.arm.name == TEACHER)
  assert gain is not None
  lines += [
    "",
    "Quality is the negative log perplexity on the validation split, in nats per target token: higher is better. "
    f"Means over {seeds} seeds, differences from the dense model of the same seed; in brackets "
    f"{CONFIDENCE:.0%} intervals (Student's t; of shares Fieller's).",
    "",
    f"Parameters: dense {parameters[DENSE]:,}, teacher {parameters[TEACHER]:,}: the student has "
    f"{compression(parameters):.1%} fewer (paper: 95%, of a teacher with 3.8 B).",
  ]
  if gain.low <= 0:
    lines += [
      "",
      f"The teacher's own gain, {_interval(gain, '+.4f')}, is not clear of 0: there is nothing of which a "
      "student could keep a share. More steps or more seeds may show one.",
    ]
  return "\n".join(lines)


def as_json(table: Sequence[Row], parameters: Mapping[str, int]) -> dict[str, Any]:
  """Returns the same for machines."""
  return {
    "confidence": CONFIDENCE,
    "parameters": dict(parameters),
    "compression": compression(parameters),
    "arms": {
      row.arm.name: {
        "quality": row.quality,
        "gain": None if row.gain is None else row.gain._asdict(),
        "share": None if row.share is None else row.share._asdict(),
        "paper": {"quality": row.arm.paper, "share": paper_share(row.arm)},
      }
      for row in table
    },
  }


def _interval(interval: Interval, form: str) -> str:
  return f"{interval.estimate:{form}} ({interval.low:{form}} to {interval.high:{form}})"
