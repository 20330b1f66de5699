# SPDX-License-Identifier: Apache-2.0
"""Table 6 of the paper: what a dense student keeps of a Switch teacher's gain, and by which means."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from switch_t5.errors import DataError
from switch_t5.reports.intervals import Entry
from switch_t5.reports.study_page import Chart, StudyContent, Table
from switch_t5.studies import family
from switch_t5.studies.curves import held_out, mean_curve, quality
from switch_t5.studies.family import QUALITY_CURVE, Outcome, Runs, shown
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


def content(
  title: str, table: Sequence[Row], parameters: Mapping[str, int], seeds: int
) -> StudyContent:
  """Returns the table, the paper's numbers beside ours, and what it says.

  Args:
    title: of the study.
    table: from `rows`.
    parameters: of the dense model and the teacher.
    seeds: how many.
  """
  headings = ["", "paper: quality", "share kept", "here: quality", "gain over dense", "share kept"]
  lines = []
  for row in table:
    is_student = row.arm.name not in (DENSE, TEACHER)
    lines.append(
      [
        row.arm.title,
        f"{row.arm.paper:.3f}",
        f"{paper_share(row.arm):.0%}" if is_student else "",
        f"{row.quality:.4f}",
        "" if row.gain is None else shown(row.gain, "+.4f"),
        "" if row.share is None else shown(row.share, ".0%"),
      ]
    )
  gain = next(row.gain for row in table if row.arm.name == TEACHER)
  assert gain is not None
  sentences = [
    "Quality is the negative log perplexity on the validation split, in nats per target token: higher is better. "
    f"Means over {seeds} seeds, differences from the dense model of the same seed; in brackets "
    f"{CONFIDENCE:.0%} intervals (Student's t; of shares Fieller's).",
    f"Parameters: dense {parameters[DENSE]:,}, teacher {parameters[TEACHER]:,}: the student has "
    f"{compression(parameters):.1%} fewer (paper: 95%, of a teacher with 3.8 B).",
  ]
  if gain.low <= 0:
    sentences.append(
      f"The teacher's own gain, {shown(gain, '+.4f')}, is not clear of 0: there is nothing of which a "
      "student could keep a share. More steps or more seeds may show one."
    )
  return StudyContent(title, [Table(title, headings, lines)], sentences)


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


def outcome(title: str, runs: Runs) -> Outcome:
  """Returns Table 6, over the seeds of which no run diverged.

  Raises:
    DataError: if they are fewer than two.
  """
  found = {name: {run.seed: quality(run) for run in of_arm} for name, of_arm in runs.items()}
  whole = [
    seed for seed in found[DENSE] if all(of_arm[seed] is not None for of_arm in found.values())
  ]
  if len(whole) < 2:
    raise DataError(
      "Too few seeds have all their runs: some diverged.",
      value=", ".join(
        f"{r.arm} of seed {r.seed}" for of_arm in runs.values() for r in of_arm if r.diverged
      ),
      rule="an interval needs two seeds of which no run diverged",
      remedy="a lower learning rate in another folder, or a larger --seeds",
    )
  qualities = {
    name: [value for seed in whole if (value := of_arm[seed]) is not None]
    for name, of_arm in found.items()
  }
  parameters = {name: int(runs[name][0].facts["parameters"]) for name in (DENSE, TEACHER)}
  table = rows(qualities)
  page = content(title, table, parameters, len(whole))
  if len(whole) < len(found[DENSE]):
    left = [str(seed) for seed in found[DENSE] if seed not in whole]
    said = f"Left out, because a run of theirs diverged: seeds {', '.join(left)}."
    page = page._replace(sentences=[*page.sentences, said])
  entries = []
  for row in table:
    gains = [a - b for a, b in zip(qualities[row.arm.name], qualities[DENSE], strict=True)]
    entries.append(Entry(row.arm.title, gains, *(row.gain or (0.0, None, None))))
  curve = [(arm.title, mean_curve([held_out(run) for run in runs[arm.name]])) for arm in ARMS]
  page = page._replace(charts=[Chart(*QUALITY_CURVE[1:], curve)])
  axis = "gain over the dense student of the same seed, nats per target token"
  return Outcome(page, {"qualities": qualities, **as_json(table, parameters)}, entries, axis)


def _of_family(arm: Arm) -> family.Arm:
  """Returns what its runs are told."""
  files: tuple[str, ...] = ()
  bindings: tuple[str, ...] = ()
  paths: tuple[tuple[str, str], ...] = ()
  if arm.fraction_soft is not None:
    files = ("runs/distill.gin",)
    paths = (("TEACHER_PATH", TEACHER),)
    bindings = (f"FRACTION_SOFT = {arm.fraction_soft}",)
  if arm.starts_from_teacher:
    paths += (("INITIAL_CHECKPOINT_PATH", TEACHER),)
  elif arm.needs_teacher:
    bindings += ("INITIAL_CHECKPOINT_PATH = None",)
  if arm.needs_teacher:
    bindings += ('InitialCheckpoint.as_teacher = "fresh"',)
  model = f"studies/distill_{{size}}{'_teacher' if arm.name == TEACHER else ''}.gin"
  timed = arm.name in (DENSE, TEACHER, "mixed_from_teacher")  # steps of all kinds
  as_long = None if timed else "mixed_from_teacher" if arm.fraction_soft is not None else DENSE
  return family.Arm(arm.name, arm.title, model, files, bindings, paths, as_long)


DISTILL = family.Family(
  "distill", "Distillation", tuple(map(_of_family, ARMS)), DENSE, outcome=outcome
)
