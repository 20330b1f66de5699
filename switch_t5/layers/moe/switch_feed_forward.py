# SPDX-License-Identifier: Apache-2.0
"""The Switch layer: a feed-forward layer of which every token visits one expert (paper section 2).

The whole layer is one shard_map, manual over data, expert and model. Each device routes its own
groups, sends slices of d/m columns through the all-to-all, and its experts work on f/m columns:

  x [T, d/m] -gather-> [E, G*C, d/m] -all_to_all(expert)-> [E/e, e*G*C, d/m]
    -all_gather(model)-> [E/e, e*G*C, d] -wi, activation-> [E/e, e*G*C, f/m] -wo, psum_scatter(model)->
    [E/e, e*G*C, d/m] -all_to_all(expert)-> [E, G*C, d/m] -gather, gate-> y [T, d/m]

(e and m: devices along expert and model; T tokens and G groups of this device.)
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P

from switch_t5.layers.activations import activate
from switch_t5.layers.moe import router_losses
from switch_t5.layers.moe.capacity import expert_capacity
from switch_t5.layers.moe.dispatch import combine, dispatch, make_plan
from switch_t5.layers.moe.experts import Experts, batched_matmul, expert_dropout
from switch_t5.layers.moe.router import Router, jitter, top1
from switch_t5.layers.moe.router_statistics import RouterReport, expert_load
from switch_t5.sharding.mesh import DATA, EXPERT, MODEL
from switch_t5.sharding.rules import RULES
from switch_t5.types import Array, DType, PRNGKey

BATCH = RULES["batch"]
# What rematerialisation keeps, or the all-to-alls would run a third time.
SAVED_NAMES = ("expert_inputs", "expert_outputs")


class SwitchFeedForward(nnx.Module):
  """A Switch layer.

  Args:
    d_model, d_ff, num_experts: d, f, E.
    activations: of the experts, one for each input projection.
    sequences_per_group: n: this many consecutive sequences are routed together.
    min_expert_capacity: least C.
    jitter_noise: epsilon of the router's input jitter in training.
    dropout_rate: `expert_dropout_rate`, of the experts' hidden activation.
    scale: of the initialisers.
    dtype: of the activations that are dispatched and returned.
    rngs: stream `params`.
  """

  def __init__(
    self,
    d_model: int,
    d_ff: int,
    num_experts: int,
    *,
    activations: tuple[str, ...] = ("relu",),
    sequences_per_group: int,
    min_expert_capacity: int,
    jitter_noise: float,
    dropout_rate: float,
    scale: float,
    dtype: DType,
    rngs: nnx.Rngs,
  ):
    self.router = Router(d_model, num_experts, scale=scale, rngs=rngs)
    self.expert = Experts(
      num_experts, d_model, d_ff, activations=activations, scale=scale, rngs=rngs
    )
    self.activations = activations
    self.num_experts, self.d_ff = num_experts, d_ff
    self.sequences_per_group, self.min_expert_capacity = sequences_per_group, min_expert_capacity
    self.jitter_noise, self.dropout_rate, self.dtype = jitter_noise, dropout_rate, dtype

  def __call__(
    self, x: Array, mask: Array, *, capacity_factor: float, key: PRNGKey | None = None
  ) -> tuple[Array, RouterReport]:
    """Routes, dispatches, applies the experts and combines. Needs a mesh (jax.set_mesh).

    Args:
      x: [B * L, d].
      mask: bool [B, L], False on padding, which is not routed and comes back as zeros.
      capacity_factor: C = ceil(capacity_factor * N / E).
      key: for jitter and dropout; None for neither.

    Returns:
      [B * L, d], zeros for dropped tokens, and the router's report over all groups.
    """
    tokens_per_group = self.sequences_per_group * mask.shape[1]
    capacity = expert_capacity(
      capacity_factor, tokens_per_group, self.num_experts, self.min_expert_capacity
    )
    jitter_key, dropout_key = (None, None) if key is None else jax.random.split(key)
    # Drawn outside the manual region, so that the noise does not depend on the mesh.
    router_input = jitter(x, self.jitter_noise, jitter_key)
    x = x.astype(self.dtype)
    if self.dropout_rate == 0.0:
      dropout_key = None
    # With one device along data the kernels differ along it by name: no cast is needed, whose
    # transpose XLA would keep as an all-reduce of one, a copy of all the experts' gradients.
    one_along_data = jax.sharding.get_abstract_mesh().shape[DATA] == 1
    expert_axis = (EXPERT, DATA) if one_along_data else EXPERT
    layer = jax.shard_map(
      partial(self._on_device, tokens_per_group=tokens_per_group, capacity=capacity),
      in_specs=(
        P(BATCH, MODEL),
        P(BATCH, None),
        P(BATCH),
        P(None, None),
        P(expert_axis, None, MODEL),
        P(expert_axis, MODEL, None),
        P(),
      ),
      out_specs=(P(BATCH, MODEL), P(BATCH)),
    )
    return layer(
      x,
      router_input,
      mask.reshape(-1),
      self.router.kernel,
      *self.expert.kernels(self.dtype),
      dropout_key,
    )

  def _on_device(
    self, x, router_input, mask, w_router, wi, wo, dropout_key, *, tokens_per_group, capacity
  ):
    """One device's part; the shapes are those of the module's docstring."""
    groups = mask.shape[0] // tokens_per_group
    mask = mask.reshape(groups, tokens_per_group)
    logits = (router_input @ w_router).reshape(groups, tokens_per_group, self.num_experts)
    probs = jax.nn.softmax(logits, axis=-1)
    routing = top1(probs)
    plan = make_plan(routing.expert_index, mask, self.num_experts, capacity)

    buffer = dispatch(x, plan).reshape(self.num_experts, groups * capacity, x.shape[-1])
    buffer = self._apply_experts(buffer, wi, wo, dropout_key, groups)
    y = combine(buffer.reshape(-1, x.shape[-1]), plan, routing.gate.reshape(mask.size, -1))

    load = expert_load(routing.expert_index, mask, self.num_experts)
    placed = (plan.slot_of_choice < plan.choice_of_slot.shape[0]).reshape(groups, -1)
    report = RouterReport(
      router_losses.load_balance_loss(probs, routing.expert_index[..., 0], mask),
      router_losses.router_z_loss(logits, mask),
      jax.lax.stop_gradient(load),
      load.sum(axis=-1) - placed.sum(axis=-1).astype(jnp.float32),
    )
    return y, report

  def _apply_experts(self, buffer, wi, wo, dropout_key, groups):
    """Maps [E, G * C, d/m] to the same shape by way of the devices that hold the experts."""
    to_experts = partial(jax.lax.all_to_all, axis_name=EXPERT, tiled=True)
    buffer = to_experts(buffer, split_axis=0, concat_axis=1)
    split_over_model = jax.lax.axis_size(MODEL) > 1  # XLA keeps collectives of one device: copies
    inputs = jax.lax.all_gather(buffer, MODEL, axis=2, tiled=True) if split_over_model else buffer
    inputs = checkpoint_name(inputs, "expert_inputs")
    if jax.lax.axis_size(DATA) > 1:
      # The experts' gradients are summed over data by the transpose of these casts.
      wi, wo = jax.tree.map(partial(jax.lax.pcast, axis_name=DATA, to="varying"), (wi, wo))
    hidden = activate([batched_matmul(inputs, kernel) for kernel in wi], self.activations)
    if dropout_key is not None:
      hidden = self._dropout(hidden, dropout_key, groups)
    outputs = batched_matmul(hidden, wo)
    if split_over_model:  # each device holds partial sums over its f/m columns
      outputs = jax.lax.psum_scatter(outputs, MODEL, scatter_dimension=2, tiled=True)
    outputs = to_experts(outputs, split_axis=1, concat_axis=0)
    return checkpoint_name(outputs, "expert_outputs")

  def _dropout(self, hidden, key, groups):
    """Expert dropout with the global ids of this device's experts, groups and columns."""
    sources = jax.lax.axis_size(EXPERT)  # rows come from all devices along the expert axis
    first_group = jax.lax.axis_index(DATA) * sources * groups
    first_expert = jax.lax.axis_index(EXPERT) * hidden.shape[0]
    return expert_dropout(
      hidden,
      self.dropout_rate,
      key,
      expert_ids=first_expert + jnp.arange(hidden.shape[0]),
      group_ids=first_group + jnp.arange(sources * groups),
      first_column=jax.lax.axis_index(MODEL) * hidden.shape[2],
      d_ff=self.d_ff,
    )
