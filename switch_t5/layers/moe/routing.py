# SPDX-License-Identifier: Apache-2.0
"""What goes into a router and comes out of it: the one interface of all of them.

A router is a module of three parts. `noisy_input` and `weights` are asked outside the manual region
of the Switch layer, for what the router reads; `__call__`, inside it, gives this device's tokens
their places:

  tokens, weights, capacity -> Routed: a plan with k places per token, gates, counts
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from switch_t5.layers.moe.dispatch import DispatchPlan
from switch_t5.layers.moe.routers.expert_choice import ExpertChoice
from switch_t5.layers.row_key import RowKey
from switch_t5.types import Array, PRNGKey, PyTree


class RouterTokens(NamedTuple):
  """One device's tokens, as a router sees them.

  Attributes:
    inputs: float32 [T, d], noise included; None for a router without weights.
    token_ids: int32 [G, N], for a hash router.
    positions: int32 [G, N], of the tokens in their sequences.
    mask: bool [G, N], False on padding, which is not routed.
    keys: [G], one for each group and the same on any mesh; None where nothing is drawn.
  """

  inputs: Array | None
  token_ids: Array | None
  positions: Array
  mask: Array
  keys: PRNGKey | None


class RouterCounts(NamedTuple):
  """Sums over the real tokens of each group, float32; and what they are sums of.

  Attributes:
    load: [G, E], choices of each expert, before any is dropped.
    score_sum: [G, E], of the scores as a distribution over experts.
    num_tokens: [G].
    num_dropped: [G], choices that found their expert full; tokens that no expert chose.
    z_loss: [G], sum of logsumexp(logits)^2.
    entropy: [G], sum of the distributions' entropies, in nats.
    confidence: [G], sum of the greatest probabilities.
    taken: int32 [G, n, 2], (token id, expert) of each choice, before any is dropped; the id is -1
      where there is none. None without token ids.
  """

  load: Array
  score_sum: Array
  num_tokens: Array
  num_dropped: Array
  z_loss: Array
  entropy: Array
  confidence: Array
  taken: Array | None


class Routed(NamedTuple):
  """Where the tokens go.

  Attributes:
    plan: of tokens that chose experts, or of experts that chose tokens.
    gate: float32 [T, k] of the plan's choices; None where the plan has its own.
    group_sizes: int32 [E], rows of each expert in a plan without capacity; None in one with it.
    counts: what is reported.
  """

  plan: DispatchPlan | ExpertChoice
  gate: Array | None
  group_sizes: Array | None
  counts: RouterCounts


class Router(Protocol):
  """A router; all of it is float32 or int32."""

  num_experts: int
  balances: bool  # whether a load-balance loss has something to act on
  depends_on_group: bool  # whether a token's experts follow from its group, also without capacity

  def noisy_input(self, x: Array, key: RowKey | None, batch_size: int) -> Array | None:
    """Returns what the router reads of x [batch_size * L, d], with its noise of training."""

  def weights(self) -> PyTree:
    """Returns the arrays that `__call__` takes back, whole on every device."""

  def __call__(self, tokens: RouterTokens, weights: PyTree, capacity: int | None) -> Routed:
    """Routes; without capacity (None) nothing is dropped."""
