# SPDX-License-Identifier: Apache-2.0
"""The capacity factor: drops against the closed form, quality and speed (Table 1; ST-MoE, Table 8)."""

from __future__ import annotations

from switch_t5.layers.moe.capacity import expected_fraction_dropped
from switch_t5.studies.curves import Run, late, of_encoder, tokens_per_second
from switch_t5.studies.family import QUALITY, QUALITY_CURVE, Arm, Beside, Family, Measure, Runs

BASE = "factor1.25"
FACTORS = (0.75, 1.0, 1.25, 2.0)
# Table 1, 128 experts, after 100,000 steps.
_PAPER = {1.0: ("-1.561", "1000 ex/s"), 1.25: ("-1.553", "910 ex/s"), 2.0: ("-1.554", "860 ex/s")}


def expected_drops(run: Run, base: Run) -> float | None:
  """Returns what a router that spreads its tokens at random drops in the encoder."""
  del base
  facts = run.facts
  factor, group, experts = (
    facts.get(name) for name in ("capacity_factor", "encoder_group", "num_experts")
  )
  if not factor or not group or not experts:
    return None
  return expected_fraction_dropped(factor, int(group), int(experts))


def beside(runs: Runs) -> Beside:
  """Says what the columns of drops are."""
  group = runs[BASE][0].facts.get("encoder_group", 0.0)
  return Beside(
    [
      f"Drops are fractions of the choices in the encoder's routers, whose groups have {group:.0f} tokens, over the "
      "whole run. The closed form is for a router that spreads its tokens at random over the experts; what "
      "is dropped beyond it is an uneven load. Evaluation has its own capacity factor, the same in all arms."
    ]
  )


def _arm(factor: float) -> Arm:
  quality, speed = _PAPER.get(factor, ("", ""))
  return Arm(
    f"factor{factor:g}",
    f"capacity factor {factor:g}",
    bindings=(f"ModelConfig.train_capacity_factor = {factor}",),
    timed_as=None if factor in (FACTORS[0], FACTORS[-1]) else f"factor{FACTORS[-1]:g}",
    paper={"quality": quality, "tokens": speed} if quality else {},
  )


CAPACITY = Family(
  "capacity",
  "The capacity factor (Table 1)",
  tuple(map(_arm, FACTORS)),
  BASE,
  (
    QUALITY,
    Measure("dropped", "dropped", lambda run, base: of_encoder(run, "fraction_dropped"), ".2%"),
    Measure("expected", "closed form", expected_drops, ".2%"),
    Measure(
      "load", "largest load, late", lambda run, base: late(run, "train/expert_load_max"), ".2f"
    ),
    Measure("tokens", "tokens/s", lambda run, base: tokens_per_second(run), ",.0f", True),
  ),
  curves=(
    QUALITY_CURVE,
    ("train/fraction_dropped", "Dropped", "fraction of the choices of both stacks, over the steps"),
  ),
  beside=beside,
)
