# SPDX-License-Identifier: Apache-2.0
"""What a Switch layer reports beside its output: returned values, nothing is sown."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from switch_t5.layers.moe.routers.balance import balance_loss
from switch_t5.layers.moe.routers.expert_choice import ExpertChoice
from switch_t5.layers.moe.routing import RouterCounts, RouterTokens
from switch_t5.sharding.mesh import DATA, EXPERT
from switch_t5.types import Array

BALANCE_SCOPES = ("group", "device", "global")


class RouterReport(NamedTuple):
  """Losses and counts of one Switch layer, over all groups; float32.

  Attributes:
    load_balance_loss: [], before its factor; mean over scopes (groups, unless asked otherwise).
    router_z_loss: [], before its factor; mean over groups.
    expert_load: [E], choices of the expert, before any is dropped.
    num_dropped: [], choices that found their expert full; tokens that no expert chose.
    num_tokens: [], real tokens that were routed.
    entropy: [], sum over tokens of the entropy of their router probabilities, in nats.
    confidence: [], sum over tokens of their greatest router probability.
    taken: int32 [n, 2], (token id, expert) of each choice, in the order of the groups; see
      `RouterCounts`. XLA drops it where nothing reads it.
  """

  load_balance_loss: Array
  router_z_loss: Array
  expert_load: Array
  num_dropped: Array
  num_tokens: Array
  entropy: Array
  confidence: Array
  taken: Array | None = None


def count_tokens(
  logits: Array,
  probs: Array,
  mask: Array,
  load: Array,
  num_dropped: Array,
  taken: Array | None = None,
) -> RouterCounts:
  """Counts over the real tokens of each group.

  Args:
    logits: float32 [G, N, E].
    probs: float32 [G, N, E], a distribution over experts for each token.
    mask: bool [G, N], False on padding.
    load: float32 [G, E].
    num_dropped: float32 [G].
    taken: of `taken_by_tokens` or `taken_by_experts`.
  """
  real = mask.astype(jnp.float32)
  fixed = jax.lax.stop_gradient(probs)
  log_z = jax.nn.logsumexp(logits, axis=-1)
  return RouterCounts(
    load=load,
    score_sum=(probs * real[..., None]).sum(axis=1),
    num_tokens=real.sum(axis=1),
    num_dropped=num_dropped,
    z_loss=(log_z * log_z * real).sum(axis=1),
    entropy=(jax.scipy.special.entr(fixed).sum(axis=-1) * real).sum(axis=1),
    confidence=(fixed.max(axis=-1) * real).sum(axis=1),
    taken=taken,
  )


def count_certain(
  mask: Array, load: Array, num_dropped: Array, taken: Array | None
) -> RouterCounts:
  """Counts of a router without probabilities: it is certain of what it does, and has no losses."""
  num_tokens = mask.sum(axis=1, dtype=jnp.float32)
  none = jnp.zeros_like(num_tokens)
  return RouterCounts(
    load=load,
    score_sum=load,
    num_tokens=num_tokens,
    num_dropped=num_dropped,
    z_loss=none,
    entropy=none,
    confidence=num_tokens,
    taken=taken,
  )


def expert_load(expert_index: Array, mask: Array, num_experts: int) -> Array:
  """Returns float32 [G, E]: choices of each expert by real tokens. It has no gradient.

  Args:
    expert_index: int32 [G, N, k]; E for no expert.
    mask: bool [G, N], False on padding.
    num_experts: E.
  """
  chosen = jax.nn.one_hot(expert_index, num_experts, dtype=jnp.float32)
  return jnp.einsum("gnke,gn->ge", chosen, mask.astype(jnp.float32))


def taken_by_tokens(tokens: RouterTokens, expert_index: Array, num_experts: int) -> Array | None:
  """Returns int32 [G, N * k, 2] of tokens that chose experts, see `RouterCounts`.

  Args:
    tokens: of the groups.
    expert_index: int32 [G, N, k]; E for no expert.
    num_experts: E.
  """
  if tokens.token_ids is None:
    return None
  is_one = tokens.mask[..., None] & (expert_index < num_experts)
  token_id = jnp.where(is_one, tokens.token_ids[..., None], -1)
  pairs = jnp.stack([token_id, expert_index], axis=-1)
  return pairs.reshape(pairs.shape[0], -1, 2)


def taken_by_experts(tokens: RouterTokens, choice: ExpertChoice, num_experts: int) -> Array | None:
  """Returns int32 [G, E * C, 2] of experts that chose tokens, see `RouterCounts`."""
  if tokens.token_ids is None:
    return None
  token_id = (
    tokens.token_ids.reshape(-1).at[choice.token_of_slot].get(mode="fill", fill_value=-1)
  ).reshape(num_experts, tokens.mask.shape[0], -1)
  expert = jnp.broadcast_to(jnp.arange(num_experts)[:, None, None], token_id.shape)
  pairs = jnp.stack([token_id, expert], axis=-1)
  return pairs.swapaxes(0, 1).reshape(pairs.shape[1], -1, 2)


def report(counts: RouterCounts, *, balances: bool, scope: str) -> RouterReport:
  """Reduces over groups, outside the manual region.

  Args:
    counts: of all groups, of all devices.
    balances: False leaves the load-balance loss at 0.
    scope: over what the fractions of the load-balance loss are taken: each "group" (the paper's
      code), all groups of a "device", or the "global" batch (Qiu et al. 2025, 2501.11873).
  """
  num_tokens = jnp.maximum(counts.num_tokens, 1.0)
  balance = jnp.zeros(())
  if balances:
    load, scores, tokens = (
      _over_scope(x, scope) for x in (counts.load, counts.score_sum, counts.num_tokens)
    )
    balance = balance_loss(load, scores, tokens).mean()
  return RouterReport(
    load_balance_loss=balance,
    router_z_loss=(counts.z_loss / num_tokens).mean(),
    expert_load=jax.lax.stop_gradient(counts.load.sum(axis=0)),
    num_dropped=counts.num_dropped.sum(),
    num_tokens=counts.num_tokens.sum(),
    entropy=counts.entropy.sum(),
    confidence=counts.confidence.sum(),
    taken=None if counts.taken is None else counts.taken.reshape(-1, 2),
  )


def _over_scope(x: Array, scope: str) -> Array:
  """Sums [groups, ...] over each scope's groups, which lie side by side."""
  if scope == "group":
    return x
  mesh = jax.sharding.get_abstract_mesh().shape
  scopes = mesh[DATA] * mesh[EXPERT] if scope == "device" else 1
  return x.reshape(scopes, -1, *x.shape[1:]).sum(axis=1)
