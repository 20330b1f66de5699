# SPDX-License-Identifier: Apache-2.0
"""Models of Hugging Face, of every kind that we know, with drawn parameters. It imports PyTorch."""

from __future__ import annotations

import torch
import transformers

from switch_t5.model.config import ModelConfig

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

VOCAB = 120  # rows of the table; ours has 128
SIZES = {
  **{"vocab_size": VOCAB, "d_model": 16, "d_ff": 24, "d_kv": 4, "num_heads": 3},
  **{"num_encoder_layers": 4, "num_decoder_layers": 2},
}
UNTIED = {"logits_via_embedding": False}
EVERY_LAYER = {
  **{"num_experts": 8, "num_encoder_sparse_layers": 4, "num_decoder_sparse_layers": 2},
  "sequences_per_group": 1,
}
EVERY_OTHER = {
  **{"num_experts": 4, "num_encoder_sparse_layers": 2, "num_decoder_sparse_layers": 1},
  "sequences_per_group": 1,
}
MODELS = {
  "T5 1.0": ModelConfig(**SIZES),
  "T5 1.1": ModelConfig(**SIZES, **UNTIED, mlp_activations=("gelu", "linear")),
  "relu, untied": ModelConfig(**SIZES, **UNTIED),
  "gated, tied": ModelConfig(**SIZES, mlp_activations=("gelu", "linear")),
  "Switch, 4 experts in every other layer": ModelConfig(**SIZES, **EVERY_OTHER),
  "Switch, 8 experts in every layer": ModelConfig(**SIZES, **EVERY_LAYER),
  "Switch, 4 experts, untied": ModelConfig(**SIZES, **EVERY_OTHER, **UNTIED),
  "Switch, 8 experts, untied": ModelConfig(**SIZES, **EVERY_LAYER, **UNTIED),
}


def make_theirs(config: ModelConfig):
  """Returns a model that their own code made, its parameters drawn anew."""
  sizes = {
    **{name: getattr(config, name) for name in ("vocab_size", "d_model", "d_kv", "d_ff")},
    **{"num_heads": config.num_heads, "num_layers": config.num_encoder_layers},
    "num_decoder_layers": config.num_decoder_layers,
    "tie_word_embeddings": config.logits_via_embedding,
  }
  if config.num_experts:
    model = transformers.SwitchTransformersForConditionalGeneration(
      transformers.SwitchTransformersConfig(
        **sizes,
        num_sparse_encoder_layers=config.num_encoder_sparse_layers,
        num_sparse_decoder_layers=config.num_decoder_sparse_layers,
        num_experts=config.num_experts,
        expert_capacity=1000,
      )
    )
  else:
    activation = {1: "relu", 2: "gated-gelu"}[len(config.mlp_activations)]
    model = transformers.T5ForConditionalGeneration(
      transformers.T5Config(**sizes, feed_forward_proj=activation)
    )
  if not config.logits_via_embedding:
    # Transformers 5 ties T5's all the same, and gives Switch's stacks tables of their own.
    model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(model.shared.weight))
    model.encoder.embed_tokens.weight = model.decoder.embed_tokens.weight = model.shared.weight
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      values = torch.randn(parameter.shape, generator=generator)
      if "layer_norm" in name:
        values = 1 + 0.3 * values
      elif "shared" not in name and "relative" not in name:
        values *= (3 if "router" in name else 1) * parameter.shape[-1] ** -0.5
      parameter.copy_(values)
  return model.eval()
