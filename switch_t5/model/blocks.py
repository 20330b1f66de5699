# SPDX-License-Identifier: Apache-2.0
"""Encoder and decoder layers, and the block: the smallest repeating run of layers."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from switch_t5.layers.attention import Attention
from switch_t5.layers.cached_attention import (
  CachedStep,
  KeyValues,
  attend_to_memory,
  attend_to_past,
  remember,
)
from switch_t5.layers.dropout import dropout_tokens
from switch_t5.layers.feed_forward import FeedForward
from switch_t5.layers.moe.experts import AttentionExperts, Experts
from switch_t5.layers.moe.router_statistics import RouterReport
from switch_t5.layers.moe.routing import Router
from switch_t5.layers.moe.switch_attention import SwitchAttention
from switch_t5.layers.moe.switch_layer import SwitchLayer
from switch_t5.layers.norm import LayerNorm
from switch_t5.layers.row_key import RowKey, split_key
from switch_t5.model.config import ModelConfig
from switch_t5.sharding.annotate import constrain
from switch_t5.types import Array


class Memory(NamedTuple):
  """What the decoder reads of the encoder.

  Attributes:
    encoded: [B * S, d], the encoder's output.
    mask: bool [B, 1, T, S] of the attention to it.
  """

  encoded: Array
  mask: Array


class LayerCache(NamedTuple):
  """What decoding keeps of one decoder layer.

  Attributes:
    past: keys and values of the positions so far.
    memory: keys and values of the encoder's output.
  """

  past: KeyValues
  memory: KeyValues


class StepInputs(NamedTuple):
  """What every decoder layer reads beside the residual stream, at one position of decoding.

  Attributes:
    token_ids: int32 [B * K, 1], of K hypotheses of each sequence.
    token_mask: bool [B * K, 1], False where a hypothesis has ended: it is not routed.
    positions: int32 [B * K, 1].
    step: of self-attention.
    memory_mask: bool [B, 1, 1, S], False on padding.
  """

  token_ids: Array
  token_mask: Array
  positions: Array
  step: CachedStep
  memory_mask: Array


class StackInputs(NamedTuple):
  """What every layer of a stack reads beside the residual stream.

  Attributes:
    token_ids: int32 [B, L], which a hash router reads.
    token_mask: bool [B, L], False on padding: the tokens that are routed.
    self_mask: bool [B, 1, L, L] of self-attention.
    self_bias: float32 [S, H, L, L], the relative position bias of each shard of the batch.
    memory: None in the encoder.
    positions: None: of the columns.
  """

  token_ids: Array
  token_mask: Array
  self_mask: Array
  self_bias: Array
  memory: Memory | None = None
  positions: None = None


def make_attention(config: ModelConfig, rngs: nnx.Rngs) -> Attention:
  """Makes an attention layer."""
  return Attention(
    config.d_model,
    config.num_heads,
    config.d_kv,
    dropout_rate=config.dropout_rate,
    scale=config.init_scale,
    dtype=config.dtype,
    recompute=config.remat == "attention",
    rngs=rngs,
  )


def make_feed_forward(config: ModelConfig, d_ff: int, rngs: nnx.Rngs) -> FeedForward:
  """Makes a dense feed-forward layer."""
  return FeedForward(
    config.d_model,
    d_ff,
    activations=config.mlp_activations,
    dropout_rate=config.dropout_rate,
    scale=config.init_scale,
    dtype=config.dtype,
    rngs=rngs,
  )


def make_router(config: ModelConfig, stack: str, rngs: nnx.Rngs) -> Router:
  """Makes a sparse layer's router."""
  router = config.router(stack)
  return router.make(config.d_model, config.num_experts, scale=config.init_scale, rngs=rngs)


def make_switch_layer(
  config: ModelConfig, stack: str, router: Router, experts: Experts | AttentionExperts
) -> SwitchLayer:
  """Makes a Switch layer of this router and these experts."""
  return SwitchLayer(
    router,
    experts,
    sequences_per_group=config.group_sequences(stack),
    min_expert_capacity=config.min_expert_capacity,
    balance_scope=config.router(stack).balance_scope,
    dtype=config.dtype,
  )


def make_switch_feed_forward(config: ModelConfig, stack: str, rngs: nnx.Rngs) -> SwitchLayer:
  """Makes a Switch layer whose experts are feed-forward layers."""
  router = make_router(config, stack, rngs)
  experts = Experts(
    config.num_experts,
    config.d_model,
    config.expert_width,
    activations=config.mlp_activations,
    dropout_rate=config.expert_dropout_rate,
    scale=config.init_scale,
    rngs=rngs,
  )
  return make_switch_layer(config, stack, router, experts)


def make_switch_attention(config: ModelConfig, stack: str, rngs: nnx.Rngs) -> SwitchAttention:
  """Makes a self-attention layer with experts for its projections."""
  router = make_router(config, stack, rngs)
  sizes = (config.d_model, config.num_heads, config.d_kv)
  experts = AttentionExperts(config.num_experts, *sizes, scale=config.init_scale, rngs=rngs)
  return SwitchAttention(
    *sizes,
    projections=make_switch_layer(config, stack, router, experts),
    dropout_rate=config.dropout_rate,
    scale=config.init_scale,
    dtype=config.dtype,
    recompute=config.remat == "attention",
    rngs=rngs,
  )


class Layer(nnx.Module):
  """Base of both kinds of layers: self-attention and feed-forward, each dense or Switch."""

  def __init__(self, config: ModelConfig, stack: str, sparse: bool, rngs: nnx.Rngs):
    self.pre_mlp_layer_norm = LayerNorm(config.d_model, dtype=config.dtype)
    self.dropout_rate = config.dropout_rate
    self.mlp: FeedForward | SwitchLayer
    if sparse and config.sparse_sublayers != "attention":
      self.mlp = make_switch_feed_forward(config, stack, rngs)
    else:
      self.mlp = make_feed_forward(config, config.d_ff, rngs)
    self.has_shared_experts = isinstance(self.mlp, SwitchLayer) and config.num_shared_experts > 0
    if self.has_shared_experts:
      width = config.num_shared_experts * config.expert_width
      self.shared_mlp = make_feed_forward(config, width, rngs)

  def make_self_attention(
    self, config: ModelConfig, stack: str, sparse: bool, rngs: nnx.Rngs
  ) -> Attention | SwitchAttention:
    """Makes the layer's self-attention."""
    if sparse and config.sparse_sublayers != "feed_forward":
      return make_switch_attention(config, stack, rngs)
    return make_attention(config, rngs)

  def attend_to_itself(
    self,
    attention: Attention | SwitchAttention,
    x: Array,
    inputs: StackInputs,
    capacity_factor: float | None,
    key: RowKey | None,
  ) -> tuple[Array, list[RouterReport]]:
    """Returns self-attention of normed x, and what its router reports, if it has one."""
    if isinstance(attention, Attention):
      return attention(x, x, inputs.self_mask, inputs.self_bias, key), []
    y, report = attention(
      x,
      inputs.self_mask,
      inputs.self_bias,
      token_mask=inputs.token_mask,
      token_ids=inputs.token_ids,
      capacity_factor=capacity_factor,
      key=key,
    )
    return y, [report]

  def add_mlp(
    self, x: Array, inputs: StackInputs | StepInputs, capacity_factor: float | None, keys: tuple
  ) -> tuple[Array, list[RouterReport]]:
    """Returns x plus the sublayer's output, and what its router reports, if it has one."""
    batch_size, reports = inputs.token_mask.shape[0], []
    normed = constrain(self.pre_mlp_layer_norm(x), "batch", "embed")
    if isinstance(self.mlp, SwitchLayer):
      y, report = self.mlp(
        normed,
        inputs.token_mask,
        capacity_factor=capacity_factor,
        token_ids=inputs.token_ids,
        positions=inputs.positions,
        key=keys[0],
      )
      reports.append(report)
      if self.has_shared_experts:
        shared_key = None if keys[0] is None else keys[0].fold_in(2)
        y = y + self.shared_mlp(normed, batch_size, shared_key)
    else:
      y = self.mlp(normed, batch_size, keys[0])
    return add_sublayer(x, y, self.dropout_rate, keys[1], batch_size), reports


class EncoderLayer(Layer):
  """Self-attention, then feed-forward; RMS norm before each, residual around each."""

  def __init__(self, config: ModelConfig, sparse: bool, rngs: nnx.Rngs):
    super().__init__(config, "encoder", sparse, rngs)
    self.pre_attention_layer_norm = LayerNorm(config.d_model, dtype=config.dtype)
    self.attention = self.make_self_attention(config, "encoder", sparse, rngs)

  def __call__(
    self, x: Array, inputs: StackInputs, capacity_factor: float | None, key: RowKey | None
  ) -> tuple[Array, list[RouterReport]]:
    """Maps [B * S, d] to the same shape and the reports of its routers."""
    keys = split_key(key, 4)
    normed = self.pre_attention_layer_norm(x)
    y, reports = self.attend_to_itself(self.attention, normed, inputs, capacity_factor, keys[0])
    x = add_sublayer(x, y, self.dropout_rate, keys[1], inputs.token_mask.shape[0])
    x, more = self.add_mlp(x, inputs, capacity_factor, keys[2:])
    return x, reports + more


class DecoderLayer(Layer):
  """Self-attention, attention to the encoder, then feed-forward."""

  def __init__(self, config: ModelConfig, sparse: bool, rngs: nnx.Rngs):
    super().__init__(config, "decoder", sparse, rngs)
    self.pre_self_attention_layer_norm = LayerNorm(config.d_model, dtype=config.dtype)
    self.self_attention = self.make_self_attention(config, "decoder", sparse, rngs)
    self.pre_cross_attention_layer_norm = LayerNorm(config.d_model, dtype=config.dtype)
    self.encoder_decoder_attention = make_attention(config, rngs)

  def __call__(
    self, x: Array, inputs: StackInputs, capacity_factor: float | None, key: RowKey | None
  ) -> tuple[Array, list[RouterReport]]:
    """Maps [B * T, d] to the same shape and the reports of its routers."""
    keys = split_key(key, 6)
    batch_size = inputs.token_mask.shape[0]
    normed = self.pre_self_attention_layer_norm(x)
    y, reports = self.attend_to_itself(
      self.self_attention, normed, inputs, capacity_factor, keys[0]
    )
    x = add_sublayer(x, y, self.dropout_rate, keys[1], batch_size)
    normed = self.pre_cross_attention_layer_norm(x)
    assert inputs.memory is not None  # SwitchTransformer.decode gives it
    encoded, cross_mask = inputs.memory
    y = self.encoder_decoder_attention(normed, encoded, cross_mask, key=keys[2])
    x = add_sublayer(x, y, self.dropout_rate, keys[3], batch_size)
    x, more = self.add_mlp(x, inputs, capacity_factor, keys[4:])
    return x, reports + more

  def start_cache(self, encoded: Array, batch_size: int, num_positions: int) -> LayerCache:
    """Returns an empty past of so many positions, and what attention reads of `encoded` [B * S, d]."""
    memory = remember(self.encoder_decoder_attention, encoded, batch_size)
    _, num_heads, _, size = memory.keys.shape
    shape = (batch_size, num_heads, num_positions, size)
    return LayerCache(KeyValues.empty(shape, memory.keys.dtype), memory)

  def decode_step(
    self, x: Array, inputs: StepInputs, cache: LayerCache
  ) -> tuple[Array, LayerCache]:
    """Maps one position of K hypotheses, [B * K, d], to the same shape, and the cache after it."""
    rows = inputs.token_mask.shape[0]
    normed = self.pre_self_attention_layer_norm(x)
    if isinstance(self.self_attention, Attention):
      y, past = attend_to_past(self.self_attention, normed, cache.past, inputs.step)
    else:
      y, past = self.self_attention.attend_to_past(
        normed,
        cache.past,
        inputs.step,
        token_mask=inputs.token_mask,
        token_ids=inputs.token_ids,
        positions=inputs.positions,
      )
    x = add_sublayer(x, y, 0.0, None, rows)
    normed = self.pre_cross_attention_layer_norm(x)
    y = attend_to_memory(self.encoder_decoder_attention, normed, cache.memory, inputs.memory_mask)
    x = add_sublayer(x, y, 0.0, None, rows)
    x, _ = self.add_mlp(x, inputs, None, (None, None))
    return x, LayerCache(past, cache.memory)


class Block(nnx.Module):
  """Layers `layers_0`, `layers_1`, ... as Flaxformer numbers them within a repeated block.

  Args:
    config: of the model.
    stack: "encoder" or "decoder".
    sparse_layers: which layers of the block are sparse.
    rngs: stream `params`.
  """

  def __init__(
    self, config: ModelConfig, stack: str, sparse_layers: tuple[bool, ...], rngs: nnx.Rngs
  ):
    layer = EncoderLayer if stack == "encoder" else DecoderLayer
    self.num_layers = len(sparse_layers)
    for i, sparse in enumerate(sparse_layers):
      setattr(self, f"layers_{i}", layer(config, sparse, rngs))

  def __call__(
    self, x: Array, inputs: StackInputs, capacity_factor: float | None, key: RowKey | None
  ) -> tuple[Array, RouterReport | None]:
    """Maps [B * L, d] to the same shape, and its routers' reports with a leading axis over them.

    None if it has no router.
    """
    reports: list[RouterReport] = []
    for i, layer_key in enumerate(split_key(key, self.num_layers)):
      x, of_layer = getattr(self, f"layers_{i}")(x, inputs, capacity_factor, layer_key)
      reports += of_layer
    return x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *reports) if reports else None


def add_sublayer(
  x: Array, y: Array, dropout_rate: float, key: RowKey | None, batch_size: int
) -> Array:
  """Returns x + dropout(y), [tokens, d], the residual stream.

  Both are whole along d on every device: without the constraint XLA spreads the Switch layer's
  split of d over the model axis into the norms, with two collectives for each.
  """
  y = constrain(y, "batch", "embed")
  return constrain(x + dropout_tokens(y, dropout_rate, key, batch_size), "batch", "embed")
