# SPDX-License-Identifier: Apache-2.0
"""A plan written by hand, as `Plan.as_json` has it."""

from __future__ import annotations

import dataclasses
from typing import Any

from switch_t5.planning import plan
from switch_t5.planning.plan import Collective

GB, MB = 10**9, 10**6


def sample(**changes: Any) -> dict[str, Any]:
  """Returns the content of a plan: Switch-Base on 64 chips, which fits; parts of it can be replaced."""
  whole = plan.Plan(
    work=plan.Work(
      step="train",
      model="Switch, T5 1.0",
      parameters=7_415_000_000,
      experts=128,
      activation_dtype="bfloat16",
      encoder_layers=12,
      decoder_layers=12,
      sparse_layers=12,
      rows=2048,
      microbatches=1,
      encoder_length=512,
      decoder_length=114,
      parameter_sharding="replicated",
      remat="full",
    ),
    place=plan.Place("v5p:4x4x4", "v5p", 64, 1, {"data": 2, "expert": 32, "model": 1}),
    memory=plan.Memory(
      limit=95 * GB,
      total=23 * GB,
      kinds={
        "parameters": 2 * GB,
        "optimizer": 20 * MB,
        "batch": 4 * MB,
        "gradients": 2 * GB,
        "activations": 7 * GB,
        "temporaries": 11_836 * MB,
        "program": 140 * MB,
      },
      exact=True,
    ),
    flops=plan.Flops(124e9, 7.6e14, 1.6e13, {"bfloat16": 1.59e13, "float32": 1e11}),
    time=plan.Time(
      0.035, 0.021, {"fast": 0.011, "slow": 0.0}, 0.046, "compute", 27_800_000.0, 0.56
    ),
    collectives=(
      Collective("all-to-all", ("expert",), "forward", "encoder", 12, 63 * MB, what="all-to-all.1"),
      Collective("all-to-all", ("expert",), "backward", "encoder", 12, 63 * MB),
      Collective("all-reduce", ("data", "expert"), "backward", "", 1, 892 * MB),
      Collective("all-gather", (), "forward", "decoder", 6, 15 * MB, crosses_slices=True),
    ),
    bounds=(
      Collective("all-to-all", ("expert",), "forward", "encoder", 12, 63 * MB, what="tokens"),
      Collective("all-to-all", ("expert",), "backward", "encoder", 12, 31 * MB, what="tokens"),
      Collective("all-reduce", ("data", "expert"), "backward", "", 1, 892 * MB, what="gradients"),
      Collective("reduce-scatter", ("data",), "backward", "decoder", 12, 14 * MB),
    ),
    dropped={"encoder": 0.0062, "decoder": 0.05},
    rows_per_second=44_521.0,
    checkpoint_bytes=29_700 * MB,
    checkpoint_seconds=1.9,
    checkpoint_bandwidth=1e9,
    advice=("More than 1 % of the decoder's tokens are dropped: sequences_per_group = 36.",),
    candidates=(
      plan.Candidate((2, 32, 1), "replicated", 1, "full", 23 * GB, 0.046, True, True),
      plan.Candidate((64, 1, 1), "fsdp", 4, "none", 130 * GB, 0.09, False, False),
    ),
    compile_seconds=319.0,
    versions={"jax": "0.12.0.1", "libtpu": "0.0.52"},
  )
  return dataclasses.replace(whole, **changes).as_json()


def too_large() -> dict[str, Any]:
  """Returns the content of a plan that does not fit, estimated and not compiled."""
  kinds = {"parameters": 90 * GB, "temporaries": 30 * GB}
  return sample(
    memory=plan.Memory(95 * GB, 120 * GB, kinds, exact=False),
    collectives=(),
    compile_seconds=None,
    candidates=(),
  )
