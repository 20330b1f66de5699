# SPDX-License-Identifier: Apache-2.0
"""How tokens find experts: top-1, top-2, expert choice and controls that learn nothing (Table 1)."""

from __future__ import annotations

from switch_t5.studies.curves import late
from switch_t5.studies.family import QUALITY, SPEED, Arm, Beside, Family, Measure, Runs

SWITCH = "switch"


def beside(runs: Runs) -> Beside:
  """Says what is the same for all, and what is not."""
  del runs
  return Beside(
    [
      "All arms have the same number of steps, not the same work: top-2 runs two experts for each token, with places "
      "for both (capacity factor 2.5), and the dense model has one feed-forward layer. Expert choice is in the "
      "encoder alone, each expert taking 1.25 times its share, with top-1 in the decoder. Speed-ups are over top-1: "
      "its steps (or time) over those after which an arm is as good as top-1 at its end. The paper's numbers are of "
      "128 experts after 100,000 steps, its MoE with the same capacity factor 1.25 for top-2."
    ]
  )


ROUTERS = Family(
  "routers",
  "Routers (Table 1)",
  (
    Arm(SWITCH, "top-1 (Switch)", paper={"quality": "-1.553", "tokens": "910 ex/s"}),
    Arm(
      "top2",
      "top-2 (MoE)",
      bindings=(
        "RouterConfig.num_selected_experts = 2",
        "RouterConfig.renormalize_gates = True",
        "ModelConfig.train_capacity_factor = 2.5",
        "ModelConfig.eval_capacity_factor = 4.0",
      ),
      paper={"quality": "-1.559", "tokens": "790 ex/s"},
    ),
    Arm(
      "expert_choice",
      "expert choice",
      bindings=(
        "encoder/RouterConfig.kind = 'expert_choice'",
        "encoder/RouterConfig.experts_per_token = 1.25",
      ),
    ),
    Arm("hash", "hash of the token", bindings=("RouterConfig.kind = 'hash'",), timed_as=SWITCH),
    Arm("random", "random", bindings=("RouterConfig.kind = 'random'",), timed_as=SWITCH),
    Arm(
      "dense",
      "dense",
      "studies/dense_{size}.gin",
      paper={"quality": "-1.731", "tokens": "1600 ex/s"},
    ),
  ),
  SWITCH,
  (
    QUALITY,
    *SPEED,
    Measure(
      "dropped", "dropped, late", lambda run, base: late(run, "train/fraction_dropped"), ".1%"
    ),
  ),
  beside=beside,
)
