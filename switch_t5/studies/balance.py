# SPDX-License-Identifier: Apache-2.0
"""The load-balance loss: without it the router collapses, with too much of it the loss suffers (eq. 4-6)."""

from __future__ import annotations

from switch_t5.studies.curves import greatest, late, mean_curve, points
from switch_t5.studies.family import QUALITY, QUALITY_CURVE, Arm, Beside, Family, Measure, Runs

PAPER, NONE = "alpha0.01", "alpha0"
# Of a whole log window: in one step of few tokens chance alone makes some experts busier.
LOAD, DROPPED = "router/*/expert_load_max", "train/fraction_dropped"
EVEN = 1.3  # times the mean: what counts as balanced
_FACTORS = {NONE: 0.0, "alpha0.001": 1e-3, PAPER: 1e-2, "alpha0.1": 1e-1}


def steps_until_even(runs: Runs, arm: str) -> float | None:
  """Returns the first log line from which on the mean largest load stays below `EVEN`; None: never."""
  curve = mean_curve([points(run, LOAD) for run in runs[arm]])
  above = [step for step, load in curve if load >= EVEN]
  after = [step for step, _ in curve if not above or step > above[-1]]
  return after[0] if after else None


def beside(runs: Runs) -> Beside:
  """Says when the load became even."""
  found = {arm: steps_until_even(runs, arm) for arm in _FACTORS}
  said = [
    f"alpha = {_FACTORS[arm]:g} from step {step:.0f} on"
    if step is not None
    else f"alpha = {_FACTORS[arm]:g} not to the end"
    for arm, step in found.items()
  ]
  return Beside(
    [
      f"The largest load, over the mean load of the experts, stays below {EVEN} (of a log window, mean over seeds "
      f"and routers): "
      f"{'; '.join(said)}. The paper took alpha = 1e-2, from a sweep whose numbers it does not give."
    ],
    content={"steps_until_even": found},
  )


BALANCE = Family(
  "balance",
  "The load-balance loss (section 2.2)",
  tuple(
    Arm(
      name,
      f"alpha = {factor:g}",
      bindings=(f"LossConfig.load_balance_factor = {factor}",),
      timed_as=None if name == NONE else NONE,
    )
    for name, factor in _FACTORS.items()
  ),
  PAPER,
  (
    QUALITY,
    Measure("load", "largest load, late", lambda run, base: late(run, LOAD), ".2f", better=-1),
    Measure("greatest", "ever", lambda run, base: greatest(run, LOAD), ".2f", better=-1),
    Measure("dropped", "dropped, late", lambda run, base: late(run, DROPPED), ".1%", better=-1),
    Measure("dead", "dead experts, late", lambda run, base: late(run, "train/dead_experts"), ".0%"),
  ),
  curves=(
    (
      LOAD,
      "Largest load",
      "of a log window, over the mean load, mean over the routers, over the steps",
    ),
    (DROPPED, "Dropped", "fraction of the choices, over the steps"),
    QUALITY_CURVE,
  ),
  beside=beside,
)
