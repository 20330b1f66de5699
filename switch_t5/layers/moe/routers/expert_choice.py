# SPDX-License-Identifier: Apache-2.0
"""Expert choice: experts take the tokens that they score best (Zhou et al. 2022, 2202.09368)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from switch_t5.layers.moe.capacity import expert_capacity
from switch_t5.types import Array


class ExpertChoice(NamedTuple):
  """Which token is in each place of each expert, in the order [E, G, C].

  Attributes:
    token_of_slot: int32 [E * G * C], in [0, T]; T if the place is empty.
    gate: float32 [E * G * C], the token's score; 0 if the place is empty.
  """

  token_of_slot: Array
  gate: Array


def expert_choice(scores: Array, mask: Array, experts_per_token: float) -> ExpertChoice:
  """Gives each expert its share of the group's real tokens, those it scores best (section 3.2).

  A share is ceil(experts_per_token * real tokens / E), so that padding changes nothing. What one
  token gets depends on all others, later ones too: it is for encoders only. Ties go to the earlier
  token.

  Args:
    scores: float32 [G, N, E].
    mask: bool [G, N], False on padding, which no expert takes.
    experts_per_token: c: how many experts take a token, on average.
  """
  groups, tokens, num_experts = scores.shape
  # For each number of real tokens: float32 would round large shares up or down.
  shares = [expert_capacity(experts_per_token, n, num_experts, 1) for n in range(tokens + 1)]
  places = shares[-1]
  ranked = jnp.where(mask[..., None], jax.lax.stop_gradient(scores), -1.0).swapaxes(1, 2)
  _, token = jax.lax.top_k(ranked, places)  # [G, E, C]
  share = jnp.asarray(shares, jnp.int32)[mask.sum(axis=1, dtype=jnp.int32)][:, None, None]
  taken = jnp.arange(places, dtype=jnp.int32)[None, None] < share
  gate = jnp.take_along_axis(scores.swapaxes(1, 2), token, axis=2)
  first = jnp.arange(groups, dtype=jnp.int32)[:, None, None] * tokens
  token = jnp.where(taken, first + token.astype(jnp.int32), groups * tokens)
  by_expert = [x.swapaxes(0, 1).reshape(-1) for x in (token, jnp.where(taken, gate, 0.0))]
  return ExpertChoice(*by_expert)


def gather_tokens(x: Array, choice: ExpertChoice) -> Array:
  """Maps tokens [T, d] to [E * G * C, d], zeros in empty places; its transpose scatters."""
  return x.at[choice.token_of_slot].get(mode="fill", fill_value=0)


def scatter_outputs(buffer: Array, choice: ExpertChoice, num_tokens: int) -> Array:
  """Maps [E * G * C, d] to tokens [T, d]: the sum of what their experts made of them, times gates."""
  weighted = buffer.astype(jnp.float32) * choice.gate[:, None]
  total = (
    jnp.zeros((num_tokens, buffer.shape[1])).at[choice.token_of_slot].add(weighted, mode="drop")
  )
  return total.astype(buffer.dtype)
