# SPDX-License-Identifier: Apache-2.0
"""The scale of the first parameters: a tenth of the usual one is steadier (Table 3)."""

from __future__ import annotations

import statistics

from switch_t5.studies.curves import Run, greatest, quality
from switch_t5.studies.family import QUALITY, QUALITY_CURVE, Arm, Beside, Family, Measure, Runs

SMALL, USUAL = "scale0.1", "scale1.0"


def rise(run: Run, base: Run) -> float | None:
  """Returns by how much the training loss ever was above its lowest value so far, nats per token."""
  del base
  losses = [value for _, value in run.metrics.get("train/cross_entropy", ())]
  if not losses:
    return None
  lowest = [min(losses[: index + 1]) for index in range(len(losses))]
  return max(now - low for now, low in zip(losses, lowest, strict=True))


def beside(runs: Runs) -> Beside:
  """Compares the standard deviations, which are what Table 3 is about."""
  spreads = {}
  for name in (SMALL, USUAL):
    found = [value for run in runs[name] if (value := quality(run)) is not None]
    if len(found) > 1:
      spreads[name] = statistics.stdev(found)
  said = (
    "The paper: -2.72 with a standard deviation of 0.01, and -3.60 with 0.68, of three runs each."
  )
  content = {"standard_deviations": spreads}
  if len(spreads) == 2 and spreads[SMALL] > 0:
    ratio = spreads[USUAL] / spreads[SMALL]
    said += (
      f" Here the usual scale has {ratio:.1f} times the standard deviation of the small one. Of so few runs a ratio "
      "between a quarter and four can be chance."
    )
  return Beside([said], content=content)


INIT = Family(
  "init",
  "The scale of the first parameters (Table 3)",
  (
    Arm(
      SMALL,
      "0.1 of the usual variance",
      bindings=("ModelConfig.init_scale = 0.1",),
      paper={"quality": "-2.72 \N{PLUS-MINUS SIGN} 0.01"},
    ),
    Arm(
      USUAL,
      "the usual variance",
      bindings=("ModelConfig.init_scale = 1.0",),
      timed_as=SMALL,
      paper={"quality": "-3.60 \N{PLUS-MINUS SIGN} 0.68"},
    ),
  ),
  SMALL,
  (
    QUALITY,
    Measure("rise", "largest rise of the loss", rise, ".3f", better=-1),
    Measure(
      "norm",
      "largest gradient norm",
      lambda run, base: greatest(run, "train/gradient_norm"),
      ".3g",
      better=-1,
    ),
  ),
  curves=(
    QUALITY_CURVE,
    ("train/cross_entropy", "Training loss", "nats per target token, over the steps"),
  ),
  beside=beside,
  seeds={"test": 2, "laptop": 5, "pod": 3},
)
