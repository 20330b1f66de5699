# SPDX-License-Identifier: Apache-2.0
"""The routers: modules that hold a router's weights and put its functions together."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from switch_t5.layers.dense import Dense
from switch_t5.layers.moe.dispatch import DispatchPlan, Routing, make_dropless_plan, make_plan
from switch_t5.layers.moe.router_statistics import (
  count_certain,
  count_tokens,
  expert_load,
  taken_by_experts,
  taken_by_tokens,
)
from switch_t5.layers.moe.routers.batch_prioritized import priority_order
from switch_t5.layers.moe.routers.expert_choice import expert_choice
from switch_t5.layers.moe.routers.exploration import input_dropout, jitter, sampling_noise
from switch_t5.layers.moe.routers.hash_tokens import by_hash
from switch_t5.layers.moe.routers.no_token_left_behind import no_token_left_behind
from switch_t5.layers.moe.routers.random_experts import random_experts
from switch_t5.layers.moe.routers.scores import as_distribution, router_scores
from switch_t5.layers.moe.routers.second_place import second_place
from switch_t5.layers.moe.routers.top_k import renormalized, top_k
from switch_t5.layers.moe.routing import Routed, RouterTokens
from switch_t5.layers.row_key import RowKey
from switch_t5.sharding.annotate import gathered, param
from switch_t5.types import Array, PyTree


class RouterWeights(nnx.Module):
  """W_r, [d, E], no bias, under the name Flaxformer gives it: `router_weights/w/kernel`."""

  def __init__(self, d_model: int, num_experts: int, *, scale: float, rngs: nnx.Rngs):
    axes = ("embed", "router_experts")
    self.w = Dense(d_model, num_experts, axes=axes, scale=scale, dtype=jnp.float32, rngs=rngs)


class ScoringRouter(nnx.Module):
  """Base of the routers that score experts: x W_r, in float32.

  Args:
    d_model, num_experts: d, E.
    scores: "softmax" or "sigmoid".
    jitter_noise, input_dropout_rate: noise of the router's input in training (App. C); 0 for none.
    scale: of the initialiser.
    rngs: stream `params`.
  """

  def __init__(
    self,
    d_model: int,
    num_experts: int,
    *,
    scores: str = "softmax",
    jitter_noise: float = 0.0,
    input_dropout_rate: float = 0.0,
    scale: float,
    rngs: nnx.Rngs,
  ):
    self.router_weights = RouterWeights(d_model, num_experts, scale=scale, rngs=rngs)
    self.num_experts, self.scores = num_experts, scores
    self.jitter_noise, self.input_dropout_rate = jitter_noise, input_dropout_rate

  def noisy_input(self, x: Array, key: RowKey | None, batch_size: int) -> Array:
    """Returns float32 x [batch_size * L, d], with noise if there is a key."""
    x = jitter(x, self.jitter_noise, key, batch_size)
    return input_dropout(x, self.input_dropout_rate, key, batch_size)

  @property
  def kernel(self) -> Array:
    """W_r, float32 [d, E]."""
    return gathered(self.router_weights.w.kernel, jnp.float32)

  def weights(self) -> dict[str, Array]:
    """W_r."""
    return {"kernel": self.kernel}

  def score(self, tokens: RouterTokens, kernel: Array) -> tuple[Array, Array]:
    """Returns logits and scores, float32 [G, N, E]."""
    assert tokens.inputs is not None  # what noisy_input returned
    logits = (tokens.inputs @ kernel).reshape(*tokens.mask.shape, self.num_experts)
    return logits, router_scores(logits, self.scores)

  def distribution(self, logits: Array, scores: Array) -> Array:
    """Returns the scores as a distribution over experts."""
    return scores if self.scores == "softmax" else as_distribution(logits)


class TopKRouter(ScoringRouter):
  """Tokens choose experts: the best one in a Switch layer (paper eq. 1-2), or the k best.

  Args:
    d_model, num_experts: d, E.
    num_selected: k.
    renormalize_gates: gates of a token sum to 1; else they are the raw scores.
    second_policy, second_threshold: which second choices are kept, see `second_place`.
    sample: experts are drawn from the router's probabilities in training (App. C).
    batch_prioritized: places are given to tokens in the order of their gates.
    num_tries: experts that a token without a place tries one after the other (App. B).
    balance_bias: selection adds a bias that training keeps balanced without a loss.
    **scoring: of `ScoringRouter`.
  """

  balances, depends_on_group = True, False

  def __init__(
    self,
    d_model: int,
    num_experts: int,
    *,
    num_selected: int = 1,
    renormalize_gates: bool = False,
    second_policy: str = "all",
    second_threshold: float = 0.2,
    sample: bool = False,
    batch_prioritized: bool = False,
    num_tries: int = 1,
    balance_bias: bool = False,
    **scoring,
  ):
    super().__init__(d_model, num_experts, **scoring)
    self.num_selected, self.renormalize_gates = num_selected, renormalize_gates
    self.second_policy, self.second_threshold = second_policy, second_threshold
    self.sample, self.batch_prioritized, self.num_tries = sample, batch_prioritized, num_tries
    self.has_bias = balance_bias
    if balance_bias:
      self.bias = param(jnp.zeros((num_experts,)), ("router_experts",))

  def weights(self) -> dict[str, Array]:
    """W_r, and the bias if there is one: no gradient reaches it."""
    if not self.has_bias:
      return super().weights()
    return super().weights() | {"bias": jax.lax.stop_gradient(gathered(self.bias, jnp.float32))}

  def __call__(
    self, tokens: RouterTokens, weights: dict[str, Array], capacity: int | None
  ) -> Routed:
    """See `Router`."""
    mask = tokens.mask
    logits, scores = self.score(tokens, weights["kernel"])
    routing = self._choose(logits, scores, weights.get("bias"), tokens.keys)
    taken = taken_by_tokens(tokens, routing.expert_index, self.num_experts)
    load = expert_load(routing.expert_index, mask, self.num_experts)
    order = None
    if capacity is not None and self.num_tries > 1:
      routing = no_token_left_behind(scores, routing, mask, capacity, self.num_tries)
    if capacity is not None and self.batch_prioritized:
      order = priority_order(routing.gate, mask)
    placed = place(routing, mask, load, capacity, order)
    distribution = self.distribution(logits, scores)
    counts = count_tokens(logits, distribution, mask, load, placed.num_dropped, taken)
    return Routed(placed.plan, flat_gate(routing), placed.group_sizes, counts)

  def _choose(self, logits, scores, bias, keys) -> Routing:
    selection = scores
    if self.sample and keys is not None:
      selection = sampling_noise(logits, keys)
    elif bias is not None:
      selection = scores + bias[None, None]
    routing = top_k(scores, self.num_selected, selection)
    if self.renormalize_gates:
      routing = renormalized(routing)
    if self.second_policy != "all":
      routing = second_place(
        routing, self.second_policy, self.second_threshold, keys, self.num_experts
      )
    return routing


class ExpertChoiceRouter(ScoringRouter):
  """Experts choose tokens (Zhou et al. 2022); for encoders only.

  Args:
    experts_per_token: how many experts take a token, on average.
    **scoring: of `ScoringRouter`.
  """

  balances, depends_on_group = False, True

  def __init__(self, d_model: int, num_experts: int, *, experts_per_token: float, **scoring):
    super().__init__(d_model, num_experts, **scoring)
    self.experts_per_token = experts_per_token

  def __call__(
    self, tokens: RouterTokens, weights: dict[str, Array], capacity: int | None
  ) -> Routed:
    """See `Router`; the places follow from `experts_per_token`, whatever the capacity."""
    groups, length = tokens.mask.shape
    logits, scores = self.score(tokens, weights["kernel"])
    choice = expert_choice(scores, tokens.mask, self.experts_per_token)
    filled = (choice.token_of_slot < groups * length).astype(jnp.float32)
    load = filled.reshape(self.num_experts, groups, -1).sum(axis=-1).T
    taken = jnp.zeros((groups * length,), bool).at[choice.token_of_slot].set(True, mode="drop")
    passed_over = tokens.mask & ~taken.reshape(tokens.mask.shape)
    counts = count_tokens(
      logits,
      self.distribution(logits, scores),
      tokens.mask,
      load,
      passed_over.sum(axis=-1, dtype=jnp.float32),
      taken_by_experts(tokens, choice, self.num_experts),
    )
    return Routed(choice, None, None, counts)


class ControlRouter(nnx.Module):
  """A control that learns nothing: a token's expert follows from its id, or from nothing.

  Args:
    num_experts: E.
    kind: "hash" (Hash Layers) or "random".
  """

  balances, depends_on_group = False, False

  def __init__(self, num_experts: int, kind: str):
    self.num_experts, self.kind = num_experts, kind

  def noisy_input(self, x: Array, key: RowKey | None, batch_size: int) -> None:
    """It reads no activation."""

  def weights(self) -> PyTree:
    """It has none."""
    return None

  def __call__(self, tokens: RouterTokens, weights: PyTree, capacity: int | None) -> Routed:
    """See `Router`."""
    mask = tokens.mask
    if self.kind == "hash":
      assert tokens.token_ids is not None  # the model gives them
      routing = by_hash(tokens.token_ids, self.num_experts)
    else:
      routing = random_experts(tokens.keys, tokens.positions, self.num_experts)
    load = expert_load(routing.expert_index, mask, self.num_experts)
    placed = place(routing, mask, load, capacity)
    taken = taken_by_tokens(tokens, routing.expert_index, self.num_experts)
    counts = count_certain(mask, load, placed.num_dropped, taken)
    return Routed(placed.plan, flat_gate(routing), placed.group_sizes, counts)


class Placed(NamedTuple):
  """The plan of a routing; its rows per expert (None with capacity); float32 [G] dropped choices."""

  plan: DispatchPlan
  group_sizes: Array | None
  num_dropped: Array


def place(
  routing: Routing,
  mask: Array,
  load: Array,
  capacity: int | None,
  order: Array | None = None,
) -> Placed:
  """Gives the chosen experts' places to tokens.

  Args:
    routing: k choices of each token.
    mask: bool [G, N].
    load: float32 [G, E], choices that want a place.
    capacity: C; None for as many places as choices.
    order: see `make_plan`.
  """
  num_experts = load.shape[-1]
  if capacity is None:
    plan, group_sizes = make_dropless_plan(routing.expert_index, mask, num_experts)
    return Placed(plan, group_sizes, jnp.zeros_like(load[:, 0]))
  plan = make_plan(routing.expert_index, mask, num_experts, capacity, order)
  has_slot = plan.slot_of_choice < plan.choice_of_slot.shape[0]
  num_placed = has_slot.reshape(mask.shape[0], -1).sum(axis=-1, dtype=jnp.float32)
  return Placed(plan, None, load.sum(axis=-1) - num_placed)


def flat_gate(routing: Routing) -> Array:
  """Returns the gates as [T, k]."""
  return routing.gate.reshape(-1, routing.gate.shape[-1])
