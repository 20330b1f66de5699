# SPDX-License-Identifier: Apache-2.0
"""The Switch layer: a layer of which every token visits one expert, or a few (paper section 2).

The whole layer is one shard_map, manual over data, expert and model. Each device routes its own
groups, sends slices of d/m columns through the all-to-all, and its experts work on f/m columns:

  x [T, d/m] -gather-> [E, G*C, d/m] -all_to_all(expert)-> [E/e, e*G*C, d/m]
    -all_gather(model)-> [E/e, e*G*C, d] -wi, activation-> [E/e, e*G*C, f/m] -wo, psum_scatter(model)->
    [E/e, e*G*C, d/m] -all_to_all(expert)-> [E, G*C, d/m] -gather, gate-> y [T, d/m]

Without capacity the rows are those of the choices, sorted by expert, and no others (`dropless`):

  x [T, d/m] -gather-> [T*k, d/m] -ragged exchange(expert)-> [e*T*k, d/m] -> ... -> [T*k, d/m] -> y

(e and m: devices along expert and model; T tokens and G groups of this device.)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P

from switch_t5.layers.moe import dropless
from switch_t5.layers.moe.capacity import expert_capacity
from switch_t5.layers.moe.dispatch import combine, dispatch
from switch_t5.layers.moe.experts import (
  AttentionExperts,
  Experts,
  batched_matmul,
  expert_dropout,
  row_dropout,
)
from switch_t5.layers.moe.grouped_matmul import grouped_matmul
from switch_t5.layers.moe.router_statistics import RouterReport, report
from switch_t5.layers.moe.routers.expert_choice import (
  ExpertChoice,
  gather_tokens,
  scatter_outputs,
)
from switch_t5.layers.moe.routing import Router, RouterTokens
from switch_t5.layers.row_key import RowKey, split_key
from switch_t5.sharding.mesh import DATA, EXPERT, MODEL
from switch_t5.sharding.rules import RULES
from switch_t5.types import Array, DType, PRNGKey, PyTree

BATCH = RULES["batch"]
# What rematerialisation keeps, or the all-to-alls would run a third time.
SAVED_NAMES = ("expert_inputs", "expert_outputs")


class SwitchLayer(nnx.Module):
  """A Switch layer: a router and its experts.

  Args:
    router: see `Router`.
    experts: feed-forward ones, or those of attention's projections.
    sequences_per_group: n: this many consecutive sequences are routed together.
    min_expert_capacity: least C.
    balance_scope: of the load-balance loss, see `report`.
    dtype: of the activations that are dispatched and returned.
  """

  def __init__(
    self,
    router: Router,
    experts: Experts | AttentionExperts,
    *,
    sequences_per_group: int,
    min_expert_capacity: int,
    balance_scope: str = "group",
    dtype: DType,
  ):
    self.router = router
    self.expert = experts  # the name Flaxformer gives it
    self.sequences_per_group, self.min_expert_capacity = sequences_per_group, min_expert_capacity
    self.balance_scope, self.dtype = balance_scope, dtype

  def __call__(
    self,
    x: Array,
    mask: Array,
    *,
    capacity_factor: float | None,
    token_ids: Array | None = None,
    positions: Array | None = None,
    key: RowKey | None = None,
  ) -> tuple[PyTree, RouterReport]:
    """Routes, dispatches, applies the experts and combines. Needs a mesh (jax.set_mesh).

    Args:
      x: [B * L, d].
      mask: bool [B, L], False on padding, which is not routed and comes back as zeros.
      capacity_factor: C = ceil(capacity_factor * N / E); None for no limit: nothing is dropped, and
        what becomes of a sequence does not depend on the others.
      token_ids: int32 [B, L], which a hash router needs.
      positions: int32 [B, L], of the tokens in their sequences; 0 to L - 1 if not given.
      key: for noise and dropout; None for neither.

    Returns:
      [B * L, d], or what the experts' `outputs` makes of it, zeros for dropped tokens; and the
      router's report over all groups.
    """
    noise_key, dropout_key = split_key(key, 2)
    # Drawn outside the manual region, so that the noise does not depend on the mesh.
    router_inputs = self.router.noisy_input(x, noise_key, mask.shape[0])
    x = x.astype(self.dtype)
    if self.expert.dropout_rate == 0.0:
      dropout_key = None
    mesh = jax.sharding.get_abstract_mesh().shape
    # With one device along data the kernels differ along it by name: no cast is needed, whose
    # transpose XLA would keep as an all-reduce of one, a copy of all the experts' gradients.
    expert_axis = (EXPERT, DATA) if mesh[DATA] == 1 else EXPERT
    group = self._sequences_per_group(mask.shape[0] // (mesh[DATA] * mesh[EXPERT]), capacity_factor)
    capacity = None
    if capacity_factor is not None:
      capacity = expert_capacity(
        capacity_factor, group * mask.shape[1], self.router.num_experts, self.min_expert_capacity
      )
    if positions is None:
      positions = jnp.broadcast_to(jnp.arange(mask.shape[1], dtype=jnp.int32), mask.shape)
    rows = P(BATCH, None)
    layer = jax.shard_map(
      partial(self._on_device, sequences_per_group=group, capacity=capacity),
      in_specs=(
        *(P(BATCH, MODEL), rows, rows, rows, rows),
        *(P(), self.expert.specs(expert_axis), P(), P()),
      ),
      out_specs=(P(BATCH, MODEL), P(BATCH)),
    )
    y, counts = layer(
      x,
      router_inputs,
      mask,
      token_ids,
      positions,
      self.router.weights(),
      self.expert.kernels(self.dtype),
      noise_key,
      dropout_key,
    )
    return y, report(counts, balances=self.router.balances, scope=self.balance_scope)

  def _sequences_per_group(self, sequences: int, capacity_factor: float | None) -> int:
    """Without capacity groups are but what losses are averaged over, and any batch is taken."""
    alone = self.router.depends_on_group or sequences % self.sequences_per_group
    return 1 if capacity_factor is None and alone else self.sequences_per_group

  def _on_device(
    self,
    x,
    router_inputs,
    mask,
    token_ids,
    positions,
    weights,
    kernels,
    noise_key,
    dropout_key,
    *,
    sequences_per_group,
    capacity,
  ):
    """One device's part; the shapes are those of the module's docstring."""
    groups = mask.shape[0] // sequences_per_group
    tokens = RouterTokens(
      inputs=router_inputs,
      token_ids=None if token_ids is None else token_ids.reshape(groups, -1),
      positions=positions.reshape(groups, -1),
      mask=mask.reshape(groups, -1),
      keys=group_keys(noise_key, groups, sequences_per_group),
    )
    routed = self.router(tokens, weights, capacity)
    if jax.lax.axis_size(DATA) > 1:
      # The experts' gradients are summed over data by the transpose of these casts.
      kernels = jax.tree.map(partial(jax.lax.pcast, axis_name=DATA, to="varying"), kernels)
    first_group = 0 if dropout_key is None else dropout_key.first_row // sequences_per_group
    through_buffers = partial(
      self._through_buffers, dropout_key=dropout_key, groups=groups, first_group=first_group
    )
    if isinstance(routed.plan, ExpertChoice):
      buffer = gather_tokens(x, routed.plan)
      buffer = through_buffers(buffer, kernels)
      y = scatter_outputs(buffer, routed.plan, mask.size)
    else:
      buffer = dispatch(x, routed.plan)
      if routed.group_sizes is None:
        buffer = through_buffers(buffer, kernels)
      else:
        choices = routed.plan.choice_of_slot
        first_choice = (
          0 if dropout_key is None else dropout_key.first_row * (choices.size // mask.shape[0])
        )
        buffer = self._through_rows(
          buffer, kernels, dropout_key, routed.group_sizes, choices, first_choice
        )
      assert routed.gate is not None  # tokens chose
      y = combine(buffer, routed.plan, routed.gate)
    return self.expert.outputs(y), routed.counts

  def _through_buffers(self, buffer, kernels, *, dropout_key, groups, first_group):
    """Maps [E * G * C, d/m] to the experts' outputs, by way of the devices that hold them."""
    to_experts = partial(jax.lax.all_to_all, axis_name=EXPERT, tiled=True)
    buffer = buffer.reshape(self.router.num_experts, -1, buffer.shape[-1])
    buffer = to_experts(buffer, split_axis=0, concat_axis=1)
    num_experts = buffer.shape[0]
    sources = jax.lax.axis_size(EXPERT)  # rows come from all devices along the expert axis
    first_group += jax.lax.axis_index(DATA) * sources * groups
    dropout = partial(
      expert_dropout,
      rate=self.expert.dropout_rate,
      key=None if dropout_key is None else dropout_key.key,
      expert_ids=jax.lax.axis_index(EXPERT) * num_experts + jnp.arange(num_experts),
      group_ids=first_group + jnp.arange(sources * groups),
    )
    outputs = self._apply_experts(buffer, kernels, batched_matmul, dropout)
    outputs = to_experts(outputs, split_axis=1, concat_axis=0)
    outputs = checkpoint_name(outputs, "expert_outputs")
    return outputs.reshape(-1, outputs.shape[-1])

  def _through_rows(self, rows, kernels, dropout_key, group_sizes, choices, first_choice):
    """The same for [T * k, d/m], rows of the choices sorted by expert."""
    ids = first_choice + batch_index() * choices.size + choices
    route = None
    if jax.lax.axis_size(EXPERT) > 1:
      route = dropless.plan_route(group_sizes, choices.size)
      rows, group_sizes = dropless.send(rows, route), route.group_sizes
      if dropout_key is not None:
        ids = dropless.send(ids[:, None], route)[:, 0]
    key = None if dropout_key is None else dropout_key.key
    dropout = partial(row_dropout, rate=self.expert.dropout_rate, key=key, row_ids=ids)
    matmul = partial(grouped_matmul, group_sizes=group_sizes)
    outputs = self._apply_experts(rows, kernels, matmul, dropout)
    outputs = outputs if route is None else dropless.send_back(outputs, route)
    return checkpoint_name(outputs, "expert_outputs")

  def _apply_experts(
    self, inputs: Array, kernels, matmul: Callable[..., Array], dropout: Callable[..., Array]
  ) -> Array:
    """Maps [..., rows, d/m] to the experts' outputs, split over model by columns."""
    last = inputs.ndim - 1
    split_over_model = jax.lax.axis_size(MODEL) > 1  # XLA keeps collectives of one device: copies
    if split_over_model:
      inputs = jax.lax.all_gather(inputs, MODEL, axis=last, tiled=True)
    inputs = checkpoint_name(inputs, "expert_inputs")
    outputs = self.expert(inputs, kernels, matmul, dropout)
    if split_over_model and self.expert.outputs_are_partial:  # sums over its f/m columns
      outputs = jax.lax.psum_scatter(outputs, MODEL, scatter_dimension=last, tiled=True)
    return outputs


def batch_index() -> Array:
  """Returns which part of the batch this device has, int32 []."""
  return jax.lax.axis_index(DATA) * jax.lax.axis_size(EXPERT) + jax.lax.axis_index(EXPERT)


def group_keys(key: RowKey | None, groups: int, sequences_per_group: int) -> PRNGKey | None:
  """Returns a key for each of this device's groups, folded from its number in the whole batch."""
  if key is None:
    return None
  first_group = key.first_row // sequences_per_group
  ids = first_group + batch_index() * groups + jnp.arange(groups)
  # Another stream than what is drawn outside the manual region.
  return jax.vmap(partial(jax.random.fold_in, jax.random.fold_in(key.key, 1)))(ids)
