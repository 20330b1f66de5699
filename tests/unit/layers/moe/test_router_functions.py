# SPDX-License-Identifier: Apache-2.0
"""Each routing idea against its definition, told by a loop over tokens or by its frequencies."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from switch_t5.layers.moe.dispatch import Routing
from switch_t5.layers.moe.routers.balance import balance_loss
from switch_t5.layers.moe.routers.batch_prioritized import priority_order
from switch_t5.layers.moe.routers.expert_choice import (
  expert_choice,
  gather_tokens,
  scatter_outputs,
)
from switch_t5.layers.moe.routers.exploration import input_dropout, jitter, sampling_noise
from switch_t5.layers.moe.routers.hash_tokens import by_hash
from switch_t5.layers.moe.routers.loss_free_balancing import updated_bias
from switch_t5.layers.moe.routers.no_token_left_behind import no_token_left_behind
from switch_t5.layers.moe.routers.random_experts import random_experts
from switch_t5.layers.moe.routers.scores import as_distribution, router_scores
from switch_t5.layers.moe.routers.second_place import second_place
from switch_t5.layers.moe.routers.top_k import renormalized, top_k
from switch_t5.layers.row_key import RowKey

GROUPS, TOKENS, EXPERTS = 3, 20, 5


def random_scores(seed=0, experts=EXPERTS):
  logits = np.random.default_rng(seed).normal(size=(GROUPS, TOKENS, experts))
  return jax.nn.softmax(jnp.asarray(2 * logits, jnp.float32))


def random_mask(seed=0):
  mask = np.random.default_rng(seed).random((GROUPS, TOKENS)) < 0.7
  mask[-1] = False
  return jnp.asarray(mask)


def group_keys(seed=0, groups=GROUPS):
  return jax.random.split(jax.random.key(seed), groups)


# Scores and top-k.


def test_softmax_and_sigmoid_scores_become_distributions():
  logits = jnp.asarray([[0.0, np.log(3.0)], [2.0, 2.0]], jnp.float32)
  np.testing.assert_allclose(
    router_scores(logits, "softmax"), [[0.25, 0.75], [0.5, 0.5]], rtol=1e-6
  )
  sigmoid = router_scores(logits, "sigmoid")
  np.testing.assert_allclose(sigmoid[0], [0.5, 0.75], rtol=1e-6)
  np.testing.assert_allclose(as_distribution(logits), [[0.4, 0.6], [0.5, 0.5]], rtol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_the_k_best_experts_are_chosen_best_first_and_scaled_by_raw_scores(k):
  scores = random_scores()
  routing = top_k(scores, k)
  order = np.argsort(-np.asarray(scores), axis=-1, kind="stable")[..., :k]
  np.testing.assert_array_equal(routing.expert_index, order)
  np.testing.assert_array_equal(routing.gate, np.take_along_axis(np.asarray(scores), order, -1))
  assert routing.expert_index.dtype == jnp.int32 and routing.gate.dtype == jnp.float32


@pytest.mark.parametrize("k", [1, 2])
def test_ties_go_to_the_first_experts(k):
  assert top_k(jnp.full((1, 1, 4), 0.25), k).expert_index.ravel().tolist() == list(range(k))


@pytest.mark.parametrize("k", [1, 2])
def test_selection_chooses_but_scores_are_the_gates(k):
  scores, bias = random_scores(), jnp.asarray([0.0, 0.0, 9.0, 0.0, 5.0], jnp.float32)
  choose = lambda scores, bias: top_k(scores, k, scores + bias[None, None])  # noqa: E731
  routing = choose(scores, bias)
  assert (np.asarray(routing.expert_index) == [2, 4][:k]).all()
  np.testing.assert_array_equal(routing.gate, np.asarray(scores)[..., [2, 4][:k]])
  score_bar, bias_bar = jax.grad(lambda *a: choose(*a).gate.sum(), argnums=(0, 1))(scores, bias)
  expected = np.zeros(scores.shape)
  expected[..., [2, 4][:k]] = 1.0
  np.testing.assert_array_equal(score_bar, expected)
  np.testing.assert_array_equal(bias_bar, np.zeros(EXPERTS))


def test_renormalised_gates_of_a_token_sum_to_one():
  routing = top_k(random_scores(), 2)
  gate = np.asarray(renormalized(routing).gate)
  np.testing.assert_allclose(gate.sum(axis=-1), 1.0, rtol=1e-6)
  ratio = routing.gate[..., 1] / routing.gate[..., 0]
  np.testing.assert_allclose(gate[..., 1] / gate[..., 0], ratio, rtol=1e-6)


# Second choices.


def two_choices(second_gate):
  gate = jnp.broadcast_to(jnp.asarray([0.5, second_gate], jnp.float32), (2, 5000, 2))
  return Routing(jnp.broadcast_to(jnp.asarray([1, 3], jnp.int32), gate.shape), gate)


@pytest.mark.parametrize(
  ("policy", "second_gate", "kept"),
  [
    ("all", 0.01, 1.0),
    ("none", 0.49, 0.0),
    ("threshold", 0.19, 0.0),
    ("threshold", 0.21, 1.0),
    ("random", 0.05, 0.25),
    ("random", 0.3, 1.0),
  ],
)
def test_policies_keep_their_share_of_second_choices_and_all_first_ones(policy, second_gate, kept):
  routing = second_place(two_choices(second_gate), policy, 0.2, group_keys(groups=2), 4)
  index, gate = np.asarray(routing.expert_index), np.asarray(routing.gate)
  assert (index[..., 0] == 1).all() and (gate[..., 0] == 0.5).all()
  is_kept = index[..., 1] == 3
  assert is_kept.mean() == pytest.approx(kept, abs=0.015)
  np.testing.assert_array_equal(gate[..., 1], np.where(is_kept, np.float32(second_gate), 0.0))
  assert (index[..., 1][~is_kept] == 4).all()


def test_without_keys_chance_is_a_threshold():
  for gate, kept in ((0.19, False), (0.21, True)):
    routing = second_place(two_choices(gate), "random", 0.2, None, 4)
    assert (np.asarray(routing.expert_index[..., 1] == 3) == kept).all()


# Exploration.


def test_jitter_multiplies_by_a_uniform_draw_around_one():
  noisy = jitter(jnp.full((200, 500), 3.0, jnp.bfloat16), 0.01, RowKey(jax.random.key(0)), 200)
  assert noisy.dtype == jnp.float32
  factor = np.asarray(noisy) / 3.0
  assert factor.min() >= 0.99 - 1e-6 and factor.max() <= 1.01 + 1e-6
  assert factor.mean() == pytest.approx(1.0, abs=1e-4)
  assert factor.std() == pytest.approx(0.02 / np.sqrt(12), rel=0.01)


def test_input_dropout_zeroes_its_share_and_scales_the_rest():
  dropped = np.asarray(
    input_dropout(jnp.full((200, 500), 3.0), 0.25, RowKey(jax.random.key(0)), 200)
  )
  kept = dropped != 0
  np.testing.assert_allclose(dropped[kept], 4.0, rtol=1e-6)
  assert kept.mean() == pytest.approx(0.75, abs=0.005)


@pytest.mark.parametrize("noise", [jitter, input_dropout])
@pytest.mark.parametrize(("rate", "key"), [(0.1, None), (0.0, RowKey(jax.random.key(0)))])
def test_there_is_no_noise_without_a_key_or_a_rate(noise, rate, key):
  x = jnp.linspace(-1, 1, 7)
  np.testing.assert_array_equal(noise(x, rate, key, 7), x)


def test_sampled_experts_have_the_routers_probabilities():
  probs = np.float32([0.5, 0.3, 0.15, 0.05])
  logits = jnp.broadcast_to(jnp.log(probs), (2, 20_000, 4))
  chosen = np.asarray(sampling_noise(logits, group_keys(groups=2)).argmax(axis=-1))
  np.testing.assert_allclose(np.bincount(chosen.ravel()) / chosen.size, probs, atol=0.01)
  assert (chosen[0] != chosen[1]).any()  # each group draws its own


# Places.


def test_priority_falls_with_the_first_gate_and_padding_comes_last():
  scores, mask = random_scores(), random_mask()
  gate = top_k(scores, 2).gate.at[0, 3, 0].set(0.9).at[0, 7, 0].set(0.9)
  order = np.asarray(priority_order(gate, mask))
  first, real = np.asarray(gate[..., 0]), np.asarray(mask)
  for g in range(GROUPS):
    wanted = sorted(range(TOKENS), key=lambda n: (not real[g, n], -first[g, n] * real[g, n], n))
    assert order[g].tolist() == wanted


@pytest.mark.parametrize("capacity", [1, 2, 4, 20])
@pytest.mark.parametrize("num_tries", [1, 2, 5])
def test_no_token_is_left_behind_while_an_expert_it_may_try_has_room(capacity, num_tries):
  for seed in range(4):
    scores, mask = random_scores(seed), random_mask(seed)
    routing = no_token_left_behind(scores, top_k(scores, 1), mask, capacity, num_tries)
    for g in range(GROUPS):
      experts = np.full(TOKENS, EXPERTS)
      for j in range(num_tries):
        for n in np.flatnonzero(mask[g]):
          e = np.argsort(-scores[g, n], stable=True)[j]
          if experts[n] == EXPERTS and (experts == e).sum() < capacity:
            experts[n] = e
      assert routing.expert_index[g, :, 0].tolist() == experts.tolist()
      padded = np.pad(np.asarray(scores[g]), ((0, 0), (0, 1)))
      np.testing.assert_array_equal(routing.gate[g, :, 0], padded[np.arange(TOKENS), experts])


# Expert choice.


@pytest.mark.parametrize("experts_per_token", [0.3, 1.0, 2.0, 5.0])
def test_an_expert_takes_its_share_of_the_real_tokens_that_it_scores_best(experts_per_token):
  for seed in range(4):
    scores, mask = random_scores(seed), random_mask(seed)
    choice = expert_choice(scores, mask, experts_per_token)
    token = np.asarray(choice.token_of_slot).reshape(EXPERTS, GROUPS, -1)
    gate = np.asarray(choice.gate).reshape(token.shape)
    for g in range(GROUPS):
      real = np.flatnonzero(mask[g])
      share = int(np.ceil(round(experts_per_token * len(real) / EXPERTS, 6)))
      for e in range(EXPERTS):
        best = sorted(real, key=lambda n: (-scores[g, n, e], n))[:share]
        assert token[e, g, : len(best)].tolist() == [g * TOKENS + n for n in best]
        assert (token[e, g, len(best) :] == GROUPS * TOKENS).all()
        np.testing.assert_array_equal(gate[e, g, : len(best)], scores[g, np.asarray(best, int), e])
        assert (gate[e, g, len(best) :] == 0).all()


def test_more_padding_changes_nothing_of_what_experts_choose():
  scores, mask = random_scores(), random_mask()
  pad = ((0, 0), (0, 7))
  wide = expert_choice(
    jnp.pad(scores, (*pad, (0, 0)), constant_values=9.0), jnp.pad(mask, pad), 2.0
  )
  token = np.asarray(wide.token_of_slot).reshape(EXPERTS, GROUPS, -1)
  narrow = expert_choice(scores, mask, 2.0)
  wanted = np.asarray(narrow.token_of_slot).reshape(EXPERTS, GROUPS, -1)
  for g in range(GROUPS):
    for e in range(EXPERTS):
      got = token[e, g][token[e, g] < GROUPS * (TOKENS + 7)] - g * (TOKENS + 7)
      assert got.tolist() == (wanted[e, g][wanted[e, g] < GROUPS * TOKENS] - g * TOKENS).tolist()


def test_gathers_and_scatters_of_expert_choice_are_one_hot_einsums_with_their_gradients():
  scores, mask = random_scores(), random_mask()
  x = jnp.asarray(np.random.default_rng(1).normal(size=(GROUPS * TOKENS, 4)), jnp.float32)
  token = np.asarray(expert_choice(scores, mask, 2.0).token_of_slot)
  one_hot = jnp.asarray(token[:, None] == np.arange(GROUPS * TOKENS), jnp.float32)
  rows = np.repeat(np.arange(EXPERTS), token.size // EXPERTS)

  def by_index(x, scores):
    choice = expert_choice(scores, mask, 2.0)
    buffer = jnp.tanh(gather_tokens(x, choice))
    y = scatter_outputs(buffer, choice, GROUPS * TOKENS)
    return (y * jnp.cos(x)).sum(), y

  def by_einsum(x, scores):
    buffer = jnp.tanh(one_hot @ x)
    gate = (one_hot @ scores.reshape(-1, EXPERTS))[np.arange(token.size), rows]
    y = one_hot.T @ (buffer * gate[:, None])
    return (y * jnp.cos(x)).sum(), y

  got = jax.value_and_grad(by_index, argnums=(0, 1), has_aux=True)(x, scores)
  want = jax.value_and_grad(by_einsum, argnums=(0, 1), has_aux=True)(x, scores)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


# Controls.


def murmur3_finaliser(number):
  for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
    number = ((number ^ (number >> shift)) * factor) & 0xFFFFFFFF
  return number ^ (number >> 16)


@pytest.mark.parametrize("experts", [1, 7, 8, 128])
def test_the_hash_is_murmurs_and_spreads_a_vocabulary_evenly(experts):
  ids = jnp.arange(32128, dtype=jnp.int32)[None]
  routing = by_hash(ids, experts)
  chosen = np.asarray(routing.expert_index).ravel()
  assert chosen[::1001].tolist() == [murmur3_finaliser(i) % experts for i in range(0, 32128, 1001)]
  load = np.bincount(chosen, minlength=experts) * experts / chosen.size
  assert load.min() > 1 - 5 * np.sqrt(experts / chosen.size)
  assert load.max() < 1 + 5 * np.sqrt(experts / chosen.size)
  assert (routing.gate == 1).all()


def test_random_experts_are_uniform_and_each_group_draws_its_own():
  positions = jnp.zeros((2, 20_000), jnp.int32)
  routing = random_experts(group_keys(groups=2), positions, 5)
  chosen = np.asarray(routing.expert_index[..., 0])
  np.testing.assert_allclose(np.bincount(chosen.ravel()) / chosen.size, 0.2, atol=0.01)
  assert (chosen[0] != chosen[1]).any()
  assert (routing.gate == 1).all()


def test_without_keys_random_experts_follow_from_the_position_alone():
  positions = jnp.tile(jnp.arange(10, dtype=jnp.int32), (3, 2))
  chosen = np.asarray(random_experts(None, positions, 5).expert_index[..., 0])
  assert (chosen == chosen[0, :10].tolist() * 2).all()
  assert len(set(chosen[0])) > 2


# Balance.


def test_the_bias_goes_up_for_idle_experts_and_down_for_busy_ones():
  bias = jnp.asarray([[0.1, 0.0, -0.2, 0.5]], jnp.float32)
  load = jnp.asarray([[10.0, 2.0, 6.0, 6.0]], jnp.float32)  # mean 6
  np.testing.assert_allclose(updated_bias(bias, load, 0.01), [[0.09, 0.01, -0.2, 0.5]], rtol=1e-6)


def test_repeated_updates_of_the_bias_balance_a_skewed_router():
  scores = jax.nn.sigmoid(
    jnp.asarray(np.random.default_rng(0).normal([2.0, 1.0, 0.0, -1.0], size=(1, 4000, 4)))
  ).astype(jnp.float32)

  def load_with(bias):
    chosen = top_k(scores, 1, scores + bias[None, None]).expert_index
    return np.bincount(np.asarray(chosen).ravel(), minlength=4)

  bias = jnp.zeros(4)
  assert load_with(bias).max() > 2000
  for _ in range(200):
    bias = updated_bias(bias, jnp.asarray(load_with(bias), jnp.float32), 5e-3)
  assert load_with(bias).max() < 1100 and load_with(bias).min() > 900


@pytest.mark.parametrize(
  ("load", "score_sum", "loss"),
  [
    ([5.0, 5.0, 5.0, 5.0], [5.0, 5.0, 5.0, 5.0], 1.0),  # even
    ([20.0, 0.0, 0.0, 0.0], [20.0, 0.0, 0.0, 0.0], 4.0),  # collapsed: E
    ([10.0, 10.0, 10.0, 10.0], [5.0, 5.0, 5.0, 5.0], 1.0),  # two choices each
    ([0.0] * 4, [0.0] * 4, 0.0),
  ],
)
def test_balance_loss_is_one_if_even_and_the_number_of_experts_if_collapsed(load, score_sum, loss):
  got = balance_loss(*(jnp.asarray([x], jnp.float32) for x in (load, score_sum)), jnp.full(1, 20.0))
  np.testing.assert_allclose(got, [loss], rtol=1e-6)


def test_balance_loss_can_be_below_one_and_has_no_gradient_through_the_load():
  load, scores = jnp.asarray([[2.0, 1.0]]), jnp.asarray([[1.02, 1.98]])
  arguments = (load, scores, jnp.full(1, 3.0))
  # 2 * (2/3 * 1.02/3 + 1/3 * 1.98/3)
  np.testing.assert_allclose(balance_loss(*arguments), [0.8933333], rtol=1e-6)
  load_bar, score_bar = jax.grad(lambda *a: balance_loss(*a).sum(), argnums=(0, 1))(*arguments)
  np.testing.assert_array_equal(load_bar, np.zeros((1, 2)))
  np.testing.assert_allclose(score_bar, [[4 / 9, 2 / 9]], rtol=1e-6)
