# SPDX-License-Identifier: Apache-2.0
"""What a Switch layer reports beside its output: returned values, nothing is sown."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from switch_t5.types import Array


class RouterReport(NamedTuple):
  """Losses and counts of one Switch layer, per group; all float32.

  Attributes:
    load_balance_loss: [G], before its factor.
    router_z_loss: [G], before its factor.
    expert_load: [G, E], real tokens that chose the expert, before any is dropped.
    num_dropped: [G], choices that found their expert full.
  """

  load_balance_loss: Array
  router_z_loss: Array
  expert_load: Array
  num_dropped: Array


def expert_load(expert_index: Array, mask: Array, num_experts: int) -> Array:
  """Returns float32 [G, E]: real tokens that chose each expert.

  Args:
    expert_index: int32 [G, N, k].
    mask: bool [G, N], False on padding.
    num_experts: E.
  """
  chosen = jax.nn.one_hot(expert_index, num_experts, dtype=jnp.float32)
  return jnp.einsum("gnke,gn->ge", chosen, mask.astype(jnp.float32))


def over_groups(report: RouterReport) -> RouterReport:
  """Reduces over groups: losses to their mean, counts to their sum."""
  return RouterReport(
    report.load_balance_loss.mean(axis=0),
    report.router_z_loss.mean(axis=0),
    report.expert_load.sum(axis=0),
    report.num_dropped.sum(axis=0),
  )
