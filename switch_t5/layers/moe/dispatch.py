# SPDX-License-Identifier: Apache-2.0
"""The dispatch plan: which token sits in which place of which expert.

Experts' buffers have one row ("slot") for each place, ordered [E, G, C], so that one gather builds
[E, G * C, d]. Without capacity there is a slot for each choice, and the slots of an expert follow
those of the expert before it. The plan is a pair of inverse maps between choices (token * k + j) and
slots; with both at hand dispatch, combine and their transposes are all gathers, and no activation is
scattered.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from switch_t5.types import Array


class Routing(NamedTuple):
  """What each token chose, best choice first.

  Attributes:
    expert_index: int32 [G, N, k]; E for no expert.
    gate: float32 [G, N, k], the factor of that expert's output; 0 for no expert.
  """

  expert_index: Array
  gate: Array


class DispatchPlan(NamedTuple):
  """Inverse maps between choices and slots; an index out of range means none.

  Attributes:
    slot_of_choice: int32 [T, k], in [0, slots]; `slots` if the choice was dropped or padding.
    choice_of_slot: int32 [slots], in [0, T * k]; T * k if the place stayed empty. There are
      E * G * C slots, or T * k without capacity.
  """

  slot_of_choice: Array
  choice_of_slot: Array


def make_plan(
  expert_index: Array, mask: Array, num_experts: int, capacity: int, order: Array | None = None
) -> DispatchPlan:
  """Gives places to the tokens of each group in token order, first choices before second ones.

  Places are counted in int32: bfloat16 cannot tell places beyond 256 apart.

  Args:
    expert_index: int32 [G, N, k].
    mask: bool [G, N]; padding takes no place.
    num_experts: E.
    capacity: C.
    order: int32 [G, N], tokens in the order in which they get places; None: as they stand.
  """
  groups, tokens, k = expert_index.shape
  choices = jnp.where(mask[..., None], expert_index, num_experts).swapaxes(1, 2)  # [G, k, N]
  if order is not None:
    choices = jnp.take_along_axis(choices, order[:, None], axis=2)
  # Flattened, all first choices come first.
  place = count_before(choices.reshape(groups, k * tokens)).reshape(groups, k, tokens)
  if order is not None:
    rank = jnp.argsort(order, axis=1)[:, None]
    choices, place = (jnp.take_along_axis(x, rank, axis=2) for x in (choices, place))
  group = jnp.arange(groups, dtype=jnp.int32)[:, None, None]
  num_slots = num_experts * groups * capacity
  fits = (choices < num_experts) & (place < capacity)
  slot = jnp.where(fits, (choices * groups + group) * capacity + place, num_slots)
  slot_of_choice = slot.swapaxes(1, 2).reshape(groups * tokens, k)
  choice = jnp.arange(groups * tokens * k, dtype=jnp.int32)
  empty = jnp.full((num_slots,), groups * tokens * k, jnp.int32)
  choice_of_slot = empty.at[slot_of_choice.ravel()].set(choice, mode="drop", unique_indices=False)
  return DispatchPlan(slot_of_choice, choice_of_slot)


def make_dropless_plan(
  expert_index: Array, mask: Array, num_experts: int
) -> tuple[DispatchPlan, Array]:
  """Gives every choice a slot: those of expert 0 first, in token order, then those of expert 1 ...

  Args:
    expert_index: int32 [G, N, k].
    mask: bool [G, N]; padding has no slot.
    num_experts: E.

  Returns:
    The plan with T * k slots, the last of them empty if there is padding, and how many slots each
    expert has, int32 [E].
  """
  k = expert_index.shape[-1]
  choices = jnp.where(mask[..., None], expert_index, num_experts).reshape(-1)
  order = jnp.argsort(choices, stable=True).astype(jnp.int32)
  in_order = choices[order]
  ends = jnp.searchsorted(in_order, jnp.arange(num_experts, dtype=jnp.int32), side="right")
  group_sizes = jnp.diff(ends.astype(jnp.int32), prepend=jnp.zeros((1,), jnp.int32))
  position = jnp.arange(choices.size, dtype=jnp.int32)
  slot = jnp.zeros_like(position).at[order].set(position, unique_indices=True)
  slot_of_choice = jnp.where(choices < num_experts, slot, choices.size).reshape(-1, k)
  choice_of_slot = jnp.where(in_order < num_experts, order, choices.size)
  return DispatchPlan(slot_of_choice, choice_of_slot), group_sizes


def count_before(choices: Array) -> Array:
  """Returns, for each choice of a group, how many before it are of the same expert.

  A stable sort brings each expert's choices together in their order, so the cost does not grow with
  the number of experts, as that of counting in one-hot columns would.

  Args:
    choices: int32 [G, k * N].
  """
  order = jnp.argsort(choices, axis=1, stable=True)
  in_order = jnp.take_along_axis(choices, order, axis=1)
  position = jnp.broadcast_to(jnp.arange(choices.shape[1], dtype=jnp.int32), choices.shape)
  begins = jnp.pad(in_order[:, 1:] != in_order[:, :-1], ((0, 0), (1, 0)), constant_values=True)
  first = jax.lax.cummax(jnp.where(begins, position, 0), axis=1)
  group = jnp.arange(choices.shape[0], dtype=jnp.int32)[:, None]
  return jnp.zeros_like(choices).at[group, order].set(position - first, unique_indices=True)


def _rows(x: Array, index: Array) -> Array:
  """Returns x[index], and zeros where the index is out of range."""
  return x.at[index].get(mode="fill", fill_value=0)


@jax.custom_vjp
def dispatch(x: Array, plan: DispatchPlan) -> Array:
  """Brings tokens to their experts' buffers.

  Args:
    x: [T, d].
    plan: of these tokens.

  Returns:
    [E * G * C, d], zeros in empty places.
  """
  return _rows(x, plan.choice_of_slot // plan.slot_of_choice.shape[1])


def _dispatch_forward(x, plan):
  return dispatch(x, plan), plan


def _dispatch_backward(plan, g):
  return _rows(g, plan.slot_of_choice).sum(axis=1), None


dispatch.defvjp(_dispatch_forward, _dispatch_backward)


@jax.custom_vjp
def collect(buffer: Array, plan: DispatchPlan) -> Array:
  """Brings the experts' outputs back to the tokens that chose them.

  Args:
    buffer: [E * G * C, d].
    plan: the plan they were dispatched by.

  Returns:
    [T, k, d], zeros for dropped choices.
  """
  return _rows(buffer, plan.slot_of_choice)


def _collect_forward(buffer, plan):
  return collect(buffer, plan), plan


def _collect_backward(plan, g):
  return _rows(g.reshape(-1, g.shape[-1]), plan.choice_of_slot), None


collect.defvjp(_collect_forward, _collect_backward)


def combine(buffer: Array, plan: DispatchPlan, gate: Array) -> Array:
  """Returns [T, d]: the sum over choices of gate times the expert's output.

  Args:
    buffer: [E * G * C, d].
    plan: the plan they were dispatched by.
    gate: float32 [T, k].
  """
  outputs = collect(buffer, plan)
  weighted = outputs.astype(jnp.float32) * gate[..., None]
  return weighted.sum(axis=1).astype(buffer.dtype)
