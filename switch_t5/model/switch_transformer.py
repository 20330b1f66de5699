# SPDX-License-Identifier: Apache-2.0
"""The model: encode, decode, and both on a batch."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from switch_t5 import batch as features
from switch_t5.layers.embedding import Embedding, LogitsDense
from switch_t5.layers.masks import causal_mask, segment_mask
from switch_t5.layers.moe.router_statistics import RouterReport
from switch_t5.layers.row_key import RowKey, split_key
from switch_t5.model.blocks import Memory
from switch_t5.model.config import ModelConfig
from switch_t5.model.stack import Stack
from switch_t5.sharding.annotate import constrain
from switch_t5.types import Array, DeviceBatch


class ModelOutput(NamedTuple):
  """What the model returns for a batch.

  Attributes:
    logits: float32 [B * T, V].
    router: the reports of all routers, encoder's first, with a leading axis over them
      (`router_places` names them); but what was taken.
    taken: what was, by the routers of the encoder and by those of the decoder: int32 [R, n, 2] each,
      see `RouterReport`; their numbers of choices differ.
  """

  logits: Array
  router: RouterReport
  taken: tuple[Array | None, ...]


class SwitchTransformer(nnx.Module):
  """A T5 encoder-decoder whose sparse layers are Switch layers.

  Args:
    config: sizes and rates.
    rngs: stream `params`.
  """

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    self.token_embedder = Embedding(
      config.padded_vocab_size, config.d_model, dtype=config.dtype, rngs=rngs
    )
    self.encoder = Stack(config, "encoder", rngs=rngs)
    self.decoder = Stack(config, "decoder", rngs=rngs)
    if not config.logits_via_embedding:  # in the decoder, where Flaxformer has it
      self.decoder.logits_dense = LogitsDense(
        config.d_model, config.padded_vocab_size, scale=config.init_scale, rngs=rngs
      )
    self.logits_via_embedding = config.logits_via_embedding

  def encode(
    self,
    tokens: Array,
    segment_ids: Array,
    *,
    capacity_factor: float | None,
    key: RowKey | None = None,
    tables: Array | None = None,
  ) -> tuple[Array, RouterReport]:
    """Encodes.

    Args:
      tokens: int32 [B, S].
      segment_ids: int32 [B, S], 0 on padding.
      capacity_factor: of the Switch layers; None for dropless, as in all inference.
      key: for dropout and jitter; None for neither.
      tables: those of `Embedding.tables`, where others use them too.

    Returns:
      [B * S, d] and the encoder's router reports.
    """
    x = self.embed(tokens, tables)
    with jax.named_scope("encoder"):  # by which a compiled program is read
      return self.encoder(
        x,
        tokens,
        segment_ids > 0,
        segment_mask(segment_ids, segment_ids),
        capacity_factor=capacity_factor,
        key=key,
      )

  def decode(
    self,
    encoded: Array,
    encoder_segment_ids: Array,
    tokens: Array,
    segment_ids: Array,
    *,
    capacity_factor: float | None,
    key: RowKey | None = None,
    tables: Array | None = None,
  ) -> ModelOutput:
    """Decodes all positions at once (teacher forcing).

    Args:
      encoded: [B * S, d].
      encoder_segment_ids: int32 [B, S].
      tokens: int32 [B, T], decoder inputs.
      segment_ids: int32 [B, T], 0 on padding.
      capacity_factor: of the Switch layers; None for dropless, as in all inference.
      key: for dropout and jitter; None for neither.
      tables: those of `Embedding.tables`, where others use them too.

    Returns:
      Logits [B * T, V] and the decoder's router reports.
    """
    x = self.embed(tokens, tables)
    with jax.named_scope("decoder"):
      x, report = self.decoder(
        x,
        tokens,
        segment_ids > 0,
        segment_mask(segment_ids, segment_ids) & causal_mask(tokens.shape[1]),
        capacity_factor=capacity_factor,
        key=key,
        memory=Memory(encoded, segment_mask(segment_ids, encoder_segment_ids)),
      )
    return ModelOutput(self.logits(x, tables), report._replace(taken=None), (report.taken,))

  def __call__(
    self, batch: DeviceBatch, *, capacity_factor: float | None, key: RowKey | None = None
  ) -> ModelOutput:
    """Runs a batch of `switch_t5.batch` ([B, length] features) through encoder and decoder."""
    encoder_key, decoder_key = split_key(key, 2)
    tables = self.token_embedder.tables()
    encoder_segment_ids = batch[features.ENCODER_SEGMENT_IDS]
    encoded, encoder_report = self.encode(
      batch[features.ENCODER_INPUT_TOKENS],
      encoder_segment_ids,
      capacity_factor=capacity_factor,
      key=encoder_key,
      tables=tables,
    )
    output = self.decode(
      encoded,
      encoder_segment_ids,
      batch[features.DECODER_INPUT_TOKENS],
      batch[features.DECODER_SEGMENT_IDS],
      capacity_factor=capacity_factor,
      key=decoder_key,
      tables=tables,
    )
    taken = (encoder_report.taken, *output.taken)
    reports = jax.tree.map(
      lambda *r: jnp.concatenate(r), encoder_report._replace(taken=None), output.router
    )
    return ModelOutput(output.logits, reports, taken)

  def logits(self, x: Array, tables: Array | None = None) -> Array:
    """Maps the decoder's output [tokens, d] to float32 [tokens, V]."""
    tied = self.logits_via_embedding
    logits = self.token_embedder.logits(x, tables) if tied else self.decoder.logits_dense(x)
    return constrain(logits, "batch", "vocab")

  def embed(self, tokens: Array, tables: Array | None = None) -> Array:
    """Maps int32 [B, L] to [B * L, d]."""
    return constrain(self.token_embedder(tokens.reshape(-1), tables), "batch", "embed")
