# SPDX-License-Identifier: Apache-2.0
"""Groups and capacity: whole-number arithmetic, done before anything is compiled."""

from __future__ import annotations

import math

from switch_t5.errors import MeshError


def expert_capacity(
  capacity_factor: float, tokens_per_group: int, num_experts: int, min_expert_capacity: int
) -> int:
  """Returns C = ceil(capacity_factor * N / E), at least the minimum and at most N (paper eq. 3)."""
  # Rounded first, so that 1.1 * 10 / 11 is 1 place and not 2.
  places = math.ceil(round(capacity_factor * tokens_per_group / num_experts, 9))
  return min(max(places, min_expert_capacity), tokens_per_group)


def check_groups(
  stack: str, *, batch_size: int, num_microbatches: int, sequences_per_group: int, batch_shards: int
) -> None:
  """Raises MeshError unless groups are whole on every device in every microbatch.

  Args:
    stack: "encoder" or "decoder", for the message.
    batch_size: B, sequences of a global step.
    num_microbatches: parts the batch is worked through in.
    sequences_per_group: n, consecutive sequences routed together.
    batch_shards: data * expert devices.
  """
  unit = num_microbatches * sequences_per_group * batch_shards
  if batch_size % unit == 0:
    return
  per_device = num_microbatches * batch_shards
  fits = [n for n in range(1, batch_size + 1) if batch_size % (per_device * n) == 0]
  below, above = batch_size // unit * unit, (batch_size // unit + 1) * unit
  batches = [str(b) for b in (below, above) if b]
  remedy = f"BATCH_SIZE of {' or '.join(batches)} with {sequences_per_group} sequences per group"
  if fits:
    prefix = "decoder_" if stack == "decoder" else ""
    remedy += f"; or {prefix}sequences_per_group of {', '.join(map(str, fits))} with BATCH_SIZE {batch_size}"
  raise MeshError(
    f"The batch does not divide into whole routing groups ({stack}).",
    value=f"BATCH_SIZE {batch_size}, {num_microbatches} microbatch(es), {sequences_per_group} "
    f"sequences per group, {batch_shards} device(s) along data * expert",
    rule="BATCH_SIZE is a multiple of microbatches * sequences per group * data * expert devices",
    remedy=remedy,
  )


def expected_fraction_dropped(
  capacity_factor: float, tokens_per_group: int, num_experts: int
) -> float:
  """Returns the fraction a perfectly uniform router drops, by the normal approximation.

  Loads are binomial: mean mu = N / E, variance mu (1 - 1/E). What exceeds C = cf * mu is dropped:
  (sigma / mu) * (phi(z) - z Q(z)) with z = (cf - 1) mu / sigma.
  """
  if num_experts == 1:
    return max(0.0, 1.0 - capacity_factor)
  mean = tokens_per_group / num_experts
  sigma = math.sqrt(mean * (1 - 1 / num_experts))
  z = (capacity_factor - 1) * mean / sigma
  density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
  upper_tail = math.erfc(z / math.sqrt(2)) / 2
  return sigma / mean * (density - z * upper_tail)
