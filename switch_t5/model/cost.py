# SPDX-License-Identifier: Apache-2.0
"""What a model costs, counted before it is built."""

from __future__ import annotations

import math

import jax

from switch_t5.model.config import ModelConfig
from switch_t5.model.definition import define_model


def parameter_count(config: ModelConfig) -> int:
  """Returns the number of parameters, from shapes alone."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(define_model(config).shapes))


def forward_flops_per_sequence(
  config: ModelConfig, encoder_length: int, decoder_length: int
) -> float:
  """Returns forward FLOPs of one sequence pair, as Table 9 of the paper counts them.

  Two for each parameter a token meets (one expert of each sparse layer), two for each query, key and
  channel of attention, and the logits. As there, the decoder's parameters all count per target
  position, and embedding look-ups, norms and the router not at all.
  """
  width = config.num_heads * config.d_kv
  attention = 4 * config.d_model * width
  feed_forward = (len(config.mlp_activations) + 1) * config.d_model * config.d_ff
  encoder = config.num_encoder_layers * (attention + feed_forward)
  decoder = config.num_decoder_layers * (2 * attention + feed_forward)
  pairs = config.num_encoder_layers * encoder_length**2 + (
    config.num_decoder_layers * decoder_length * (decoder_length + encoder_length)
  )
  logits = decoder_length * config.d_model * config.padded_vocab_size
  return 2.0 * (encoder * encoder_length + decoder * decoder_length + width * pairs + logits)
