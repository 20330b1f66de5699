# SPDX-License-Identifier: Apache-2.0
"""How a router explores while it is trained (appendix C, Table 11)."""

from __future__ import annotations

from switch_t5.studies.curves import late
from switch_t5.studies.family import QUALITY, Arm, Family, Measure

ARGMAX = "argmax"
_TITLES = {
  ARGMAX: ("argmax", "-1.471"),
  "jitter": ("jitter of the input", "-1.468"),
  "input_dropout": ("dropout of the input", "-1.480"),
  "sample": ("samples of the softmax", "-1.570"),
}

EXPLORATION = Family(
  "exploration",
  "Exploration of the router (Table 11)",
  tuple(
    Arm(
      name,
      title,
      bindings=(f"RouterConfig.exploration = '{name}'",),
      timed_as=None if name == ARGMAX else ARGMAX,
      paper={"quality": paper},
    )
    for name, (title, paper) in _TITLES.items()
  ),
  ARGMAX,
  (
    QUALITY,
    Measure(
      "load", "largest load, late", lambda run, base: late(run, "train/expert_load_max"), ".2f"
    ),
    Measure(
      "confidence",
      "router confidence, late",
      lambda run, base: late(run, "train/router_confidence"),
      ".3f",
    ),
  ),
)
