# SPDX-License-Identifier: Apache-2.0
"""The dispatch plan against its definition, and the gathers against one-hot einsums."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from switch_t5.layers.moe.dispatch import DispatchPlan, collect, combine, dispatch, make_plan

GROUPS, TOKENS, EXPERTS, WIDTH = 3, 20, 4, 5


def random_choices(k, seed=0, padding=True):
  """Distinct experts for each token, and a mask with padding inside and at the end."""
  rng = np.random.default_rng(seed)
  index = rng.random((GROUPS, TOKENS, EXPERTS)).argsort(axis=-1)[..., :k].astype(np.int32)
  mask = np.ones((GROUPS, TOKENS), bool)
  if padding:
    mask[:, -4:] = False
    mask[1, 2:5] = False
  return index, mask


def naive_slots(index, mask, num_experts, capacity):
  """Places given one by one: slots [G, N, k], or -1."""
  groups, tokens, k = index.shape
  slots = np.full(index.shape, -1)
  for g in range(groups):
    taken = [0] * num_experts
    for j in range(k):
      for n in range(tokens):
        if mask[g, n]:
          e = index[g, n, j]
          if taken[e] < capacity:
            slots[g, n, j] = (e * groups + g) * capacity + taken[e]
          taken[e] += 1
  return slots


def one_hot_dispatch(plan: DispatchPlan) -> jax.Array:
  """float32 [T, k, slots]: 1 where a choice has its slot."""
  return jax.nn.one_hot(plan.slot_of_choice, plan.choice_of_slot.shape[0], dtype=jnp.float32)


@pytest.mark.smoke
def test_places_are_given_in_token_order_and_padding_takes_none():
  index = jnp.asarray([[0, 1, 0, 0, 1, 0]], jnp.int32)[..., None]
  mask = jnp.asarray([[True, True, False, True, True, True]])
  plan = make_plan(index, mask, num_experts=2, capacity=2)
  # Expert 0: tokens 0 and 3 (2 is padding, 5 finds it full). Expert 1: tokens 1 and 4.
  np.testing.assert_array_equal(plan.slot_of_choice[:, 0], [0, 2, 4, 1, 3, 4])
  np.testing.assert_array_equal(plan.choice_of_slot, [0, 3, 1, 4])


def test_all_first_choices_come_before_any_second_one():
  index = jnp.asarray([[[0, 1], [1, 0], [2, 0], [0, 2]]], jnp.int32)
  plan = make_plan(index, jnp.ones((1, 4), bool), num_experts=3, capacity=2)
  # Expert 0 has room for the first choices of tokens 0 and 3; the second ones of 1 and 2 are late.
  np.testing.assert_array_equal(plan.slot_of_choice, [[0, 3], [2, 6], [4, 6], [1, 5]])


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("capacity", [1, 3, 8, TOKENS])
def test_the_plan_is_what_giving_places_one_by_one_gives(k, capacity):
  for seed in range(5):
    index, mask = random_choices(k, seed)
    plan = make_plan(jnp.asarray(index), jnp.asarray(mask), EXPERTS, capacity)
    expected = naive_slots(index, mask, EXPERTS, capacity).reshape(-1, k)
    num_slots = EXPERTS * GROUPS * capacity
    np.testing.assert_array_equal(plan.slot_of_choice, np.where(expected < 0, num_slots, expected))


@pytest.mark.parametrize("k", [1, 2])
def test_the_two_maps_are_inverses(k):
  index, mask = random_choices(k)
  plan = make_plan(jnp.asarray(index), jnp.asarray(mask), EXPERTS, capacity=4)
  slot_of, choice_of = np.asarray(plan.slot_of_choice).ravel(), np.asarray(plan.choice_of_slot)
  assert slot_of.dtype == choice_of.dtype == np.int32
  placed = slot_of < choice_of.size
  assert 0 < placed.sum() < mask.sum() * k  # some are dropped
  assert len(set(slot_of[placed])) == placed.sum()  # no two share a place
  np.testing.assert_array_equal(choice_of[slot_of[placed]], np.flatnonzero(placed))
  filled = choice_of < slot_of.size
  assert filled.sum() == placed.sum()
  np.testing.assert_array_equal(slot_of[choice_of[filled]], np.flatnonzero(filled))


@pytest.mark.parametrize("tokens", [300, 1024, 70_000])
def test_places_are_exact_beyond_what_bfloat16_and_16_bits_can_count(tokens):
  index = jnp.zeros((1, tokens, 1), jnp.int32).at[0, -1].set(1)
  plan = make_plan(index, jnp.ones((1, tokens), bool), num_experts=2, capacity=tokens)
  expected = np.arange(tokens)
  expected[-1] = tokens  # the first place of expert 1
  np.testing.assert_array_equal(plan.slot_of_choice[:, 0], expected)


@pytest.mark.parametrize("k", [1, 2])
def test_dispatch_and_combine_are_one_hot_einsums_and_so_are_their_gradients(k):
  index, mask = random_choices(k)
  plan = make_plan(jnp.asarray(index), jnp.asarray(mask), EXPERTS, capacity=4)
  keys = jax.random.split(jax.random.key(0), 5)
  num_tokens, num_slots = GROUPS * TOKENS, plan.choice_of_slot.shape[0]
  x = jax.random.normal(keys[0], (num_tokens, WIDTH))
  gate = jax.random.uniform(keys[1], (num_tokens, k))
  scale = jax.random.normal(keys[2], (num_slots, 1))
  buffer_bar = jax.random.normal(keys[3], (num_slots, WIDTH))
  y_bar = jax.random.normal(keys[4], (num_tokens, WIDTH))
  one_hot = one_hot_dispatch(plan)

  def by_index(x, gate, scale):
    buffer = dispatch(x, plan)
    y = combine(buffer * scale, plan, gate)
    return (buffer * buffer_bar).sum() + (y * y_bar).sum(), (buffer, y)

  def by_einsum(x, gate, scale):
    buffer = jnp.einsum("tks,td->sd", one_hot, x)
    y = jnp.einsum("tks,sd,tk->td", one_hot, buffer * scale, gate)
    return (buffer * buffer_bar).sum() + (y * y_bar).sum(), (buffer, y)

  got = jax.value_and_grad(by_index, argnums=(0, 1, 2), has_aux=True)(x, gate, scale)
  want = jax.value_and_grad(by_einsum, argnums=(0, 1, 2), has_aux=True)(x, gate, scale)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_empty_places_and_dropped_choices_are_zeros():
  index = jnp.zeros((1, 3, 1), jnp.int32)
  plan = make_plan(index, jnp.ones((1, 3), bool), num_experts=2, capacity=2)
  buffer = dispatch(jnp.ones((3, WIDTH)), plan)
  np.testing.assert_array_equal(buffer, np.repeat([1, 1, 0, 0], WIDTH).reshape(4, WIDTH))
  returned = collect(jnp.full((4, WIDTH), 7.0), plan)[:, 0]
  np.testing.assert_array_equal(returned, np.repeat([7, 7, 0], WIDTH).reshape(3, WIDTH))


def test_activations_stay_in_bfloat16_both_ways():
  index, mask = random_choices(1)
  plan = make_plan(jnp.asarray(index), jnp.asarray(mask), EXPERTS, capacity=4)
  x = jnp.ones((GROUPS * TOKENS, WIDTH), jnp.bfloat16)
  gate = jnp.full((GROUPS * TOKENS, 1), 0.3, jnp.float32)
  y, vjp = jax.vjp(lambda x: combine(dispatch(x, plan), plan, gate), x)
  assert y.dtype == vjp(y)[0].dtype == jnp.bfloat16
  placed = np.asarray(plan.slot_of_choice[:, 0] < plan.choice_of_slot.shape[0])
  np.testing.assert_array_equal(y[:, 0], np.where(placed, jnp.bfloat16(0.3), jnp.bfloat16(0)))
