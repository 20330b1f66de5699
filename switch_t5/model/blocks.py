# SPDX-License-Identifier: Apache-2.0
"""Encoder and decoder layers, and the block: the smallest repeating run of layers."""

from __future__ import annotations

from typing import NamedTuple

import jax
from flax import nnx

from switch_t5.layers.attention import Attention
from switch_t5.layers.dropout import dropout_tokens
from switch_t5.layers.feed_forward import FeedForward
from switch_t5.layers.moe.router_statistics import RouterReport, over_groups
from switch_t5.layers.moe.switch_feed_forward import SwitchFeedForward
from switch_t5.layers.norm import LayerNorm
from switch_t5.model.config import ModelConfig
from switch_t5.sharding.annotate import constrain
from switch_t5.types import Array, PRNGKey


class Memory(NamedTuple):
  """What the decoder reads of the encoder.

  Attributes:
    encoded: [B * S, d], the encoder's output.
    mask: bool [B, 1, T, S] of the attention to it.
  """

  encoded: Array
  mask: Array


class StackInputs(NamedTuple):
  """What every layer of a stack reads beside the residual stream.

  Attributes:
    token_mask: bool [B, L], False on padding: the tokens that are routed.
    self_mask: bool [B, 1, L, L] of self-attention.
    self_bias: float32 [1, H, L, L], the relative position bias.
    memory: None in the encoder.
  """

  token_mask: Array
  self_mask: Array
  self_bias: Array
  memory: Memory | None = None


def make_attention(config: ModelConfig, rngs: nnx.Rngs) -> Attention:
  """Makes an attention layer."""
  return Attention(
    config.d_model,
    config.num_heads,
    config.d_kv,
    dropout_rate=config.dropout_rate,
    scale=config.init_scale,
    dtype=config.dtype,
    rngs=rngs,
  )


class MlpSublayer(nnx.Module):
  """Base of both kinds of layers: its feed-forward sublayer, dense or Switch, with its norm."""

  def __init__(self, config: ModelConfig, stack: str, sparse: bool, rngs: nnx.Rngs):
    self.pre_mlp_layer_norm = LayerNorm(config.d_model, dtype=config.dtype)
    self.dropout_rate = config.dropout_rate
    self.mlp: FeedForward | SwitchFeedForward
    if sparse:
      self.mlp = SwitchFeedForward(
        config.d_model,
        config.d_ff,
        config.num_experts,
        activations=config.mlp_activations,
        sequences_per_group=config.group_sequences(stack),
        min_expert_capacity=config.min_expert_capacity,
        jitter_noise=config.jitter_noise,
        dropout_rate=config.expert_dropout_rate,
        scale=config.init_scale,
        dtype=config.dtype,
        rngs=rngs,
      )
    else:
      self.mlp = FeedForward(
        config.d_model,
        config.d_ff,
        activations=config.mlp_activations,
        dropout_rate=config.dropout_rate,
        scale=config.init_scale,
        dtype=config.dtype,
        rngs=rngs,
      )

  def add_mlp(
    self, x: Array, token_mask: Array, capacity_factor: float, keys: tuple
  ) -> tuple[Array, RouterReport | None]:
    """Returns x plus the sublayer's output, and what its router reports (None if dense)."""
    normed, report = constrain(self.pre_mlp_layer_norm(x), "batch", "embed"), None
    if isinstance(self.mlp, SwitchFeedForward):
      y, report = self.mlp(normed, token_mask, capacity_factor=capacity_factor, key=keys[0])
      report = over_groups(report)
    else:
      y = self.mlp(normed, token_mask.shape[0], keys[0])
    return add_sublayer(x, y, self.dropout_rate, keys[1], token_mask.shape[0]), report


class EncoderLayer(MlpSublayer):
  """Self-attention, then feed-forward; RMS norm before each, residual around each."""

  def __init__(self, config: ModelConfig, sparse: bool, rngs: nnx.Rngs):
    super().__init__(config, "encoder", sparse, rngs)
    self.pre_attention_layer_norm = LayerNorm(config.d_model, dtype=config.dtype)
    self.attention = make_attention(config, rngs)

  def __call__(self, x: Array, inputs: StackInputs, capacity_factor: float, key: PRNGKey | None):
    """Maps [B * S, d] to the same shape and a router report or None."""
    keys = split_key(key, 4)
    normed = self.pre_attention_layer_norm(x)
    y = self.attention(normed, normed, inputs.self_mask, inputs.self_bias, keys[0])
    x = add_sublayer(x, y, self.dropout_rate, keys[1], inputs.token_mask.shape[0])
    return self.add_mlp(x, inputs.token_mask, capacity_factor, keys[2:])


class DecoderLayer(MlpSublayer):
  """Self-attention, attention to the encoder, then feed-forward."""

  def __init__(self, config: ModelConfig, sparse: bool, rngs: nnx.Rngs):
    super().__init__(config, "decoder", sparse, rngs)
    self.pre_self_attention_layer_norm = LayerNorm(config.d_model, dtype=config.dtype)
    self.self_attention = make_attention(config, rngs)
    self.pre_cross_attention_layer_norm = LayerNorm(config.d_model, dtype=config.dtype)
    self.encoder_decoder_attention = make_attention(config, rngs)

  def __call__(self, x: Array, inputs: StackInputs, capacity_factor: float, key: PRNGKey | None):
    """Maps [B * T, d] to the same shape and a router report or None."""
    keys = split_key(key, 6)
    batch_size = inputs.token_mask.shape[0]
    normed = self.pre_self_attention_layer_norm(x)
    y = self.self_attention(normed, normed, inputs.self_mask, inputs.self_bias, keys[0])
    x = add_sublayer(x, y, self.dropout_rate, keys[1], batch_size)
    normed = self.pre_cross_attention_layer_norm(x)
    assert inputs.memory is not None  # SwitchTransformer.decode gives it
    encoded, cross_mask = inputs.memory
    y = self.encoder_decoder_attention(normed, encoded, cross_mask, key=keys[2])
    x = add_sublayer(x, y, self.dropout_rate, keys[3], batch_size)
    return self.add_mlp(x, inputs.token_mask, capacity_factor, keys[4:])


class Block(nnx.Module):
  """Layers `layers_0`, `layers_1`, ... as Flaxformer numbers them within a repeated block."""

  def __init__(
    self, config: ModelConfig, stack: str, sparse_layers: tuple[bool, ...], rngs: nnx.Rngs
  ):
    layer = EncoderLayer if stack == "encoder" else DecoderLayer
    self.num_layers = len(sparse_layers)
    for i, sparse in enumerate(sparse_layers):
      setattr(self, f"layers_{i}", layer(config, sparse, rngs))

  def __call__(self, x: Array, inputs: StackInputs, capacity_factor: float, key: PRNGKey | None):
    """Maps [B * L, d] to the same shape and the report of its sparse layer (None if it has none)."""
    report = None  # only the last layer of a block can be sparse
    for i, layer_key in enumerate(split_key(key, self.num_layers)):
      x, report = getattr(self, f"layers_{i}")(x, inputs, capacity_factor, layer_key)
    return x, report


def add_sublayer(
  x: Array, y: Array, dropout_rate: float, key: PRNGKey | None, batch_size: int
) -> Array:
  """Returns x + dropout(y), [tokens, d], the residual stream.

  Both are whole along d on every device: without the constraint XLA spreads the Switch layer's
  split of d over the model axis into the norms, with two collectives for each.
  """
  y = constrain(y, "batch", "embed")
  return constrain(x + dropout_tokens(y, dropout_rate, key, batch_size), "batch", "embed")


def split_key(key: PRNGKey | None, num: int) -> tuple[PRNGKey | None, ...]:
  """Returns `num` keys, or that many None."""
  return (None,) * num if key is None else tuple(jax.random.split(key, num))
