# SPDX-License-Identifier: Apache-2.0
"""A stack of layers: embedded tokens in, normed activations out, scans over blocks between.

A stack is a list of *runs*, each a block and its repeats (`ModelConfig.stack_layout`). The runs'
parameters are `blocks`, `blocks_1`, `blocks_2`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from switch_t5.layers.dropout import dropout_tokens
from switch_t5.layers.embedding import LogitsDense
from switch_t5.layers.moe.router_statistics import RouterReport
from switch_t5.layers.moe.switch_layer import SAVED_NAMES
from switch_t5.layers.norm import LayerNorm
from switch_t5.layers.relative_position import RelativePositionBias
from switch_t5.layers.row_key import RowKey, split_key, stack_keys
from switch_t5.model.blocks import Block, Layer, Memory, StackInputs
from switch_t5.model.config import ModelConfig
from switch_t5.sharding.annotate import batch_shards, prepend_axis
from switch_t5.types import Array


def run_name(index: int) -> str:
  """Returns the name of a run's parameters: that of the first has no number."""
  return f"blocks_{index}" if index else "blocks"


def stack_blocks(
  config: ModelConfig, stack: str, sparse_layers: tuple[bool, ...], repeats: int, rngs: nnx.Rngs
) -> Block:
  """Makes one Block whose parameters have a leading axis `layers`: one slice for each repeat."""

  @nnx.split_rngs(splits=repeats)
  @nnx.vmap(axis_size=repeats)
  def build(rngs: nnx.Rngs) -> Block:
    return Block(config, stack, sparse_layers, rngs)

  blocks = build(rngs)
  prepend_axis(blocks, "layers")
  return blocks


def scan_blocks(
  blocks: Block,
  x: Array,
  inputs: StackInputs,
  *,
  repeats: int,
  capacity_factor: float | None,
  keys: RowKey | None,
  unroll: int,
  remat: str,
) -> tuple[Array, RouterReport | None]:
  """Runs x through the blocks of one run in order; `keys` [repeats] are for dropout and jitter.

  Returns:
    x after the last block, [B * L, d], and the reports of the routers with leading axes over repeats
    and over the routers of a block, or None.
  """
  graph, params = nnx.split(blocks)

  def run_block(x, block_params_and_key):
    block_params, block_key = block_params_and_key
    block = nnx.merge(graph, block_params)
    return block(x, inputs, capacity_factor, block_key)

  if remat == "full":
    policy = jax.checkpoint_policies.save_only_these_names(*SAVED_NAMES)
    # In a loop forward and backward pass are apart; side by side XLA would find them equal and keep all.
    side_by_side = unroll >= repeats
    run_block = jax.checkpoint(run_block, policy=policy, prevent_cse=side_by_side)
  return jax.lax.scan(run_block, x, (params, keys), length=repeats, unroll=min(unroll, repeats))


class Stack(nnx.Module):
  """Encoder or decoder: dropout, blocks, final norm, dropout.

  Args:
    config: of the model.
    stack: "encoder" or "decoder".
    rngs: stream `params`.
  """

  logits_dense: LogitsDense  # set by the model, in a decoder whose logits are not tied

  def __init__(self, config: ModelConfig, stack: str, *, rngs: nnx.Rngs):
    self.relpos_bias = RelativePositionBias(
      config.num_heads, bidirectional=stack == "encoder", rngs=rngs
    )
    layout = config.stack_layout(stack)
    for i, (sparse_layers, repeats) in enumerate(layout):
      setattr(self, run_name(i), stack_blocks(config, stack, sparse_layers, repeats, rngs))
    norm = LayerNorm(config.d_model, dtype=config.dtype)
    setattr(self, f"{stack}_norm", norm)  # the name Flaxformer gives it
    self.stack, self.repeats = stack, tuple(repeats for _, repeats in layout)
    self.num_experts = config.num_experts
    self.dropout_rate = config.dropout_rate
    self.scan_unroll, self.remat = config.scan_unroll, config.remat

  def __call__(
    self,
    x: Array,
    token_ids: Array,
    token_mask: Array,
    self_mask: Array,
    *,
    capacity_factor: float | None,
    key: RowKey | None,
    memory: Memory | None = None,
  ) -> tuple[Array, RouterReport]:
    """Runs the stack.

    Args:
      x: embedded tokens, [B * L, d].
      token_ids: int32 [B, L].
      token_mask: bool [B, L], False on padding.
      self_mask: bool [B, 1, L, L].
      capacity_factor: of the Switch layers; None for dropless.
      key: for dropout and jitter; None for neither.
      memory: what the decoder reads of the encoder.

    Returns:
      [B * L, d], and a report with a leading axis over the stack's routers (may be empty).
    """
    batch_size, length = token_mask.shape
    before_key, blocks_key, after_key = split_key(key, 3)
    bias = self.relpos_bias(length, batch_shards())
    inputs = StackInputs(token_ids, token_mask, self_mask, bias, memory)
    x = dropout_tokens(x, self.dropout_rate, before_key, batch_size)
    x, report = self._scan_runs(x, inputs, capacity_factor, blocks_key)
    x = self.final_norm(x)
    return dropout_tokens(x, self.dropout_rate, after_key, batch_size), report

  def final_norm(self, x: Array) -> Array:
    """Maps [tokens, d] to the same shape."""
    return getattr(self, f"{self.stack}_norm")(x)

  def layers(self) -> list[Layer]:
    """Returns the stack's layers in order, each with its own slice of the parameters.

    Call it outside of a loop that uses them: there each slice would be copied anew in each step.
    """
    layers = []
    for i, repeats in enumerate(self.repeats):
      graph, params = nnx.split(getattr(self, run_name(i)))
      for n in range(repeats):
        block = nnx.merge(graph, jax.tree.map(lambda leaf, n=n: leaf[n], params))
        layers += [getattr(block, f"layers_{k}") for k in range(block.num_layers)]
    return layers

  def _scan_runs(
    self, x: Array, inputs: StackInputs, capacity_factor: float | None, key: RowKey | None
  ) -> tuple[Array, RouterReport]:
    """Runs x through all blocks; the reports are in the order of the routers."""
    keys = None if key is None else key.split(sum(self.repeats))
    reports, start = [], 0
    for i, repeats in enumerate(self.repeats):
      x, report = scan_blocks(
        getattr(self, run_name(i)),
        x,
        inputs,
        repeats=repeats,
        capacity_factor=capacity_factor,
        keys=None if keys is None else stack_keys(keys[start : start + repeats]),
        unroll=self.scan_unroll,
        remat=self.remat,
      )
      start += repeats
      if report is not None:  # [repeats, routers of a block, ...]
        reports.append(jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), report))
    if not reports:
      return x, no_report(self.num_experts)
    return x, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *reports)


def no_report(num_experts: int) -> RouterReport:
  """The report of no router."""
  empty = jnp.zeros((0,))
  fields = dict.fromkeys(RouterReport._fields, empty)
  shaped = {
    "expert_load": jnp.zeros((0, num_experts)),
    "taken": jnp.zeros((0, 0, 2), jnp.int32),
  }
  return RouterReport(**fields | shaped)
