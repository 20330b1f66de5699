# SPDX-License-Identifier: Apache-2.0
"""The decoder, a position at a time: logits of the next token of K hypotheses of each sequence.

What a position needs of the ones before it is kept: B * K rows go through the decoder, not B * K * T.
Routing is dropless, as in all inference, so that a sequence's logits do not depend on the others.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from switch_t5.layers.cached_attention import CachedStep
from switch_t5.model.blocks import DecoderLayer, LayerCache, StepInputs
from switch_t5.model.switch_transformer import SwitchTransformer
from switch_t5.sharding.annotate import constrain
from switch_t5.types import Array

Cache = tuple[LayerCache, ...]


class CachedDecoder:
  """A model's decoder for one batch of encoded sequences.

  Make it outside of the loop over positions: it takes the stacked layers apart, and attends to the
  encoder's output once.

  Args:
    model: the model.
    encoded: [B * S, d], the encoder's output.
    encoder_segment_ids: int32 [B, S], 0 on padding; one segment in each row.
    max_length: T, positions there is room for.
    num_hypotheses: K, of each sequence.

  Attributes:
    empty_cache: the cache before the first position.
  """

  def __init__(
    self,
    model: SwitchTransformer,
    encoded: Array,
    encoder_segment_ids: Array,
    *,
    max_length: int,
    num_hypotheses: int,
  ):
    self._model = model
    self._batch_size, self._length = encoder_segment_ids.shape[0], max_length
    self._hypotheses = num_hypotheses
    self._layers: list[DecoderLayer] = model.decoder.layers()  # type: ignore[assignment]
    self._memory_mask = (encoder_segment_ids > 0)[:, None, None]
    # [1, H, T, T * K]: the hypotheses of a time are as far away as each other.
    bias = model.decoder.relpos_bias(max_length)
    self._bias = jnp.repeat(bias, num_hypotheses, axis=-1)
    places = max_length * num_hypotheses
    self.empty_cache: Cache = tuple(
      layer.start_cache(encoded, self._batch_size, places) for layer in self._layers
    )

  def __call__(
    self, tokens: Array, time: Array, ancestors: Array, running: Array, cache: Cache
  ) -> tuple[Array, Cache]:
    """Reads one token of each hypothesis.

    Args:
      tokens: int32 [B, K], decoder inputs at `time`.
      time: int32 [], from 0.
      ancestors: int32 [B, K, T]: whose entry of each time up to this one, this one's being its own,
        a hypothesis goes on from.
      running: bool [B, K], False where a hypothesis has ended.
      cache: after the positions before.

    Returns:
      The logits of the token after it, float32 [B, K, V], and the cache.
    """
    batch_size, hypotheses = tokens.shape
    times = jnp.arange(self._length, dtype=jnp.int32)
    whose = jnp.arange(hypotheses, dtype=jnp.int32)
    seen = ancestors[..., None] == whose[None, None, None, :]
    seen = seen & (times <= time)[None, None, :, None]
    step = CachedStep(
      time,
      seen.reshape(batch_size, 1, hypotheses, -1),
      jax.lax.dynamic_slice_in_dim(self._bias, time, 1, axis=2),
    )
    rows = (batch_size * hypotheses, 1)
    inputs = StepInputs(
      token_ids=constrain(tokens.reshape(rows), "batch", None),
      token_mask=constrain(running.reshape(rows), "batch", None),
      positions=constrain(jnp.broadcast_to(time, rows), "batch", None),
      step=step,
      memory_mask=self._memory_mask,
    )
    x = self._model.embed(tokens)
    kept = []
    with jax.named_scope("decoder"):  # as in training
      for layer, of_layer in zip(self._layers, cache, strict=True):
        x, of_layer = layer.decode_step(x, inputs, of_layer)
        kept.append(of_layer)
    logits = self._model.logits(self._model.decoder.final_norm(x))
    return logits.reshape(batch_size, hypotheses, -1), tuple(kept)
