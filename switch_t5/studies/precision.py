# SPDX-License-Identifier: Apache-2.0
"""float32, and bfloat16 with a float32 router: *selective precision* (section 2.4, Table 2)."""

from __future__ import annotations

from collections.abc import Mapping

from switch_t5.reports.study_page import Table
from switch_t5.studies.curves import tokens_per_second
from switch_t5.studies.family import QUALITY, Arm, Beside, Family, Measure, Runs

FLOAT32, SELECTIVE = "float32", "selective"
# Facts that `cli/study_probe.py` adds, of the arm that they are of.
BYTES, BYTES_NEEDED = "all_to_all_bytes", "all_to_all_bytes_needed"
TOKENS, FLIPS_FLOAT32, FLIPS_BFLOAT16 = "routed_tokens", "flips_float32", "flips_bfloat16"
COLLIDING, ROUTED = "colliding_in_groups_of_", "routed_in_groups_of_"


def beside(runs: Runs) -> Beside:
  """Returns what a bfloat16 router would break, and what crosses devices."""
  facts = runs[FLOAT32][0].facts
  sentences = [
    "The paper's third row, all of it in bfloat16, diverged (-3.780). The model here has no bfloat16 router to train "
    "with: what one would do is computed on the inputs that a trained model's routers see.",
    "On a CPU bfloat16 is not faster; the paper's speed is that of its accelerators.",
  ]
  tables = []
  if TOKENS in facts:
    tables.append(_broken(facts))
  if BYTES in facts:
    tables.append(_sent(runs))
    sentences.append(
      "XLA on a CPU makes collectives of bfloat16 ones of float32, so the program that it compiles sends as much; "
      "what the layout needs is what TPUs and GPUs send."
    )
  return Beside(sentences, tables)


def _broken(facts: Mapping[str, float]) -> Table:
  total = facts[TOKENS]

  def part(count: float, of: float) -> str:
    return f"{count:,.0f} of {of:,.0f} ({count / of:.2%})"

  rows = [
    ["choices that are not float64's, router in float32", part(facts[FLIPS_FLOAT32], total)],
    ["the same, router in bfloat16", part(facts[FLIPS_BFLOAT16], total)],
  ]
  for name in sorted((n for n in facts if n.startswith(COLLIDING)), key=_group):
    routed = facts[f"{ROUTED}{_group(name)}"]
    title = f"tokens that share a place counted in bfloat16, groups of {_group(name):,}"
    rows.append([title, part(facts[name], routed)])
  caption = "What a router in bfloat16 would do, on the trained float32 model's encoder"
  return Table(caption, ["", "of the tokens"], rows)


def _sent(runs: Runs) -> Table:
  rows = [
    [
      PRECISION.arm(arm).title,
      *(f"{runs[arm][0].facts[name]:,.0f}" for name in (BYTES_NEEDED, BYTES)),
    ]
    for arm in (FLOAT32, SELECTIVE)
  ]
  caption = "Bytes of one device in the all-to-alls of a step, 8 devices along expert"
  return Table(caption, ["", "the layout needs", "compiled for cpu:8"], rows)


def _group(name: str) -> int:
  return int(name.removeprefix(COLLIDING))


PRECISION = Family(
  "precision",
  "Selective precision (Table 2)",
  (
    Arm(
      FLOAT32,
      "float32",
      bindings=("ModelConfig.activation_dtype = 'float32'",),
      paper={"quality": "-1.718", "tokens": "1160 ex/s"},
    ),
    Arm(
      SELECTIVE,
      "bfloat16, router in float32",
      bindings=("ModelConfig.activation_dtype = 'bfloat16'",),
      paper={"quality": "-1.716", "tokens": "1390 ex/s"},
    ),
  ),
  FLOAT32,
  (
    QUALITY,
    Measure("tokens", "tokens/s", lambda run, base: tokens_per_second(run), ",.0f", True),
  ),
  beside=beside,
)
