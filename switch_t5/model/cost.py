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

  Two for each parameter a token meets (of a sparse layer its experts'), two for each query, key and
  channel of attention, and the logits. As there, the decoder's parameters all count per target
  position, and embedding look-ups, norms and the router not at all.
  """
  encoder, decoder = parameters_met(config, "encoder"), parameters_met(config, "decoder")
  pairs = config.num_encoder_layers * encoder_length**2 + (
    config.num_decoder_layers * decoder_length * (decoder_length + encoder_length)
  )
  attention = config.num_heads * config.d_kv * pairs
  logits = decoder_length * config.d_model * config.padded_vocab_size
  return 2.0 * (encoder * encoder_length + decoder * decoder_length + attention + logits)


def parameters_met(config: ModelConfig, stack: str) -> float:
  """Returns how many parameters of a stack's layers a token meets, without norms and routers."""
  layers = getattr(config, f"num_{stack}_layers")
  sparse = getattr(config, f"num_{stack}_sparse_layers")
  projection = config.d_model * config.num_heads * config.d_kv
  feed_forward = (len(config.mlp_activations) + 1) * config.d_model
  attention: float = layers * projection * (4 if stack == "encoder" else 8)
  visited = config.router(stack).experts_visited
  switch_feed_forward: float = config.d_ff
  if config.sparse_sublayers != "attention":
    switch_feed_forward = (visited + config.num_shared_experts) * config.expert_width
  if config.sparse_sublayers != "feed_forward":
    # Key and value are one projection, and query and key are those of each expert that is visited.
    attention += sparse * projection * (2 * visited - 3)
  widths = (layers - sparse) * config.d_ff + sparse * switch_feed_forward
  return attention + feed_forward * widths
