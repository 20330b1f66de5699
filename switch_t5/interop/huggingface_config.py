# SPDX-License-Identifier: Apache-2.0
"""Hugging Face's config.json of T5 and Switch: held against the arrays, and written for them.

What a model is follows from its arrays (`deduce_model`). A configuration that says otherwise is
refused, and so is one with other numerics than ours. What it leaves out has Hugging Face's defaults.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from switch_t5.errors import CheckpointError
from switch_t5.interop import untrusted
from switch_t5.interop.model_shape import sparse_layers
from switch_t5.interop.names import SWITCH, T5
from switch_t5.layers.norm import EPSILON
from switch_t5.layers.relative_position import MAX_DISTANCE, NUM_BUCKETS
from switch_t5.model.config import ModelConfig

CONFIG = "config.json"
_STACKS = {"encoder": "num_layers", "decoder": "num_decoder_layers"}
_DEFAULTS: dict[str, dict[str, Any]] = {
  T5: {
    **{"vocab_size": 32128, "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_heads": 8},
    **{"num_layers": 6, "feed_forward_proj": "relu"},
  },
  SWITCH: {
    **{"vocab_size": 32128, "d_model": 768, "d_kv": 64, "d_ff": 2048, "num_heads": 12},
    **{"num_layers": 12, "num_decoder_layers": 12, "num_experts": 8, "expert_capacity": 64},
    **{"num_sparse_encoder_layers": 3, "num_sparse_decoder_layers": 3},
  },
}
# What is computed, where the configuration could ask for something else; the first is the default.
_NUMERICS: dict[str, tuple[Any, ...]] = {
  "relative_attention_num_buckets": (NUM_BUCKETS,),
  "relative_attention_max_distance": (MAX_DISTANCE,),
  "layer_norm_epsilon": (EPSILON,),
  "pad_token_id": (0,),
  "decoder_start_token_id": (None, 0),
}
_SWITCH_NUMERICS = {
  **_NUMERICS,
  "dense_act_fn": ("relu",),
  "router_bias": (False,),
  "router_dtype": ("float32",),
}
_ACTIVATIONS = {"relu": ("relu",), "gated-gelu": ("gelu", "linear")}
_HIDDEN_ACTIVATIONS = {"relu": "relu", "gated-gelu": "gelu_new"}
# Inference drops no token: more places than a sequence has tokens. No memory goes with it.
_ENDLESS_CAPACITY = 1 << 20


def read_config(path: pathlib.Path) -> dict[str, Any]:
  """Returns config.json of a folder, its defaults filled in.

  Raises:
    CheckpointError: if it is of another kind of model, or of other numerics than ours.
  """
  where = path / CONFIG
  config = untrusted.read_json(where)
  kind = config.get("model_type")
  if not isinstance(kind, str) or kind not in _DEFAULTS:
    raise untrusted.refuse(
      where, f"model_type {repr(kind)[:80]}", rule=f"one of {', '.join(_DEFAULTS)}"
    )
  config = _DEFAULTS[kind] | config
  if config.get("num_decoder_layers") is None:
    config["num_decoder_layers"] = config["num_layers"]
  for name, allowed in _numerics(config).items():
    value = config.get(name, allowed[0])
    if not any(_same(value, one) for one in allowed):
      raise untrusted.refuse(
        where,
        f"{name} {repr(value)[:80]}",
        rule=f"{' or '.join(map(repr, allowed))}: what is computed here has no other",
      )
  return config


def says_tied(config: Mapping[str, Any]) -> bool:
  """Returns whether the logits come from the embedding table, scaled."""
  tied = config.get("tie_word_embeddings", True)
  if config["model_type"] == SWITCH:
    return tied is True
  # Transformers 5 ties T5's whatever is said, and keeps here what the field meant.
  return config.get("scale_decoder_outputs", tied is not False) is True


def check_claims(config: Mapping[str, Any], model: ModelConfig, path: pathlib.Path) -> None:
  """Raises CheckpointError unless what a configuration says of the arrays is so.

  Args:
    config: of `read_config`.
    model: of the arrays.
    path: of the checkpoint.
  """
  lies = [
    f"{name}: {str(said)[:80]}, and the arrays have {found}"
    for name, said, found in _claims(config, model)
    if not _same(said, found)
  ]
  if lies:
    raise CheckpointError(
      f"{CONFIG} is not that of the arrays beside it.",
      value=f"{path}: {'; '.join(lies)}",
      rule="the configuration and the arrays are of one model",
      remedy="take both from one place",
    )


def make_config(model: ModelConfig, dtype: str) -> dict[str, Any]:
  """Returns the config.json of a model.

  Args:
    model: of the arrays.
    dtype: of the arrays.

  Raises:
    CheckpointError: if Hugging Face's classes cannot say it.
  """
  config: dict[str, Any] = {
    "vocab_size": model.vocab_size,
    "d_model": model.d_model,
    "d_kv": model.d_kv,
    "d_ff": model.d_ff,
    "num_heads": model.num_heads,
    "num_layers": model.num_encoder_layers,
    "num_decoder_layers": model.num_decoder_layers,
    "tie_word_embeddings": model.logits_via_embedding,
    "relative_attention_num_buckets": NUM_BUCKETS,
    "relative_attention_max_distance": MAX_DISTANCE,
    "layer_norm_epsilon": EPSILON,
    "is_encoder_decoder": True,
    "decoder_start_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "dtype": dtype,
  }
  if not model.num_experts:
    (activation,) = (name for name, of in _ACTIVATIONS.items() if of == model.mlp_activations)
    dense = {"feed_forward_proj": activation}
    return {"architectures": ["T5ForConditionalGeneration"], "model_type": T5, **config, **dense}
  if len(model.mlp_activations) > 1:
    raise _cannot_say("experts with a gated activation", "their experts have wi and wo only")
  if model.expert_width != model.d_ff:
    raise _cannot_say(
      f"experts of width {model.expert_width}, and dense layers of {model.d_ff}", "both have d_ff"
    )
  sparse = {f"num_sparse_{stack}_layers": _count_sparse_layers(model, stack) for stack in _STACKS}
  return {
    "architectures": ["SwitchTransformersForConditionalGeneration"],
    "model_type": SWITCH,
    **config,
    **sparse,
    "num_experts": model.num_experts,
    "expert_capacity": _ENDLESS_CAPACITY,
    "dense_act_fn": "relu",
    "router_bias": False,
    "router_dtype": "float32",
  }


def _numerics(config: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
  if config["model_type"] == SWITCH:
    return _SWITCH_NUMERICS
  # Two more fields follow from this one, unless they are given.
  kind = config["feed_forward_proj"]
  hidden = _HIDDEN_ACTIVATIONS.get(kind) if isinstance(kind, str) else None
  return {
    **_NUMERICS,
    "feed_forward_proj": tuple(_ACTIVATIONS),
    "dense_act_fn": (hidden,),
    "is_gated_act": (kind != "relu",),
  }


def _claims(config: Mapping[str, Any], model: ModelConfig) -> Iterator[tuple[str, Any, Any]]:
  """Yields what a configuration says: the field, what it says, and what is so."""
  for name in ("vocab_size", "d_model", "d_kv", "d_ff", "num_heads"):
    yield name, config[name], getattr(model, name)
  for stack, name in _STACKS.items():
    yield name, config[name], getattr(model, f"num_{stack}_layers")
  yield "tie_word_embeddings", says_tied(config), model.logits_via_embedding
  is_switch = config["model_type"] == SWITCH
  yield "num_experts", config["num_experts"] if is_switch else 0, model.num_experts
  if not is_switch:
    activations = _ACTIVATIONS[config["feed_forward_proj"]]
    yield "feed_forward_proj", activations, model.mlp_activations
    return
  yield "dense_act_fn", ("relu",), model.mlp_activations
  yield "d_ff", config["d_ff"], model.expert_width
  for stack in _STACKS:
    layers = getattr(model, f"num_{stack}_layers")
    name = f"num_sparse_{stack}_layers"
    count = config[name]
    if isinstance(count, bool) or not isinstance(count, int):
      yield name, count, "a whole number"
      continue
    step = config.get(f"{stack}_sparse_step", layers // count if count > 0 else layers)
    yield name, _sparse_by_step(layers, step), sparse_layers(model, stack)


def _sparse_by_step(layers: int, step: object) -> list[int]:
  """Returns which layers are sparse by Hugging Face's rule; it has layer 1 where none should be."""
  if isinstance(step, bool) or not isinstance(step, int) or step < 1:
    return []
  return [i for i in range(layers) if i % step == 1 or step == 1]


def _count_sparse_layers(model: ModelConfig, stack: str) -> int:
  """Returns the number that makes Hugging Face's rule choose a stack's sparse layers."""
  layers, sparse = getattr(model, f"num_{stack}_layers"), sparse_layers(model, stack)
  for count in range(1, layers + 1):
    if _sparse_by_step(layers, layers // count) == sparse:
      return count
  raise _cannot_say(
    f"{stack} with the sparse layers {sparse} of {layers}",
    "layer i is sparse iff i % step == 1 or step == 1, step = layers // sparse layers, so that no "
    "stack is without",
  )


def _cannot_say(value: str, rule: str) -> CheckpointError:
  return CheckpointError(
    "Hugging Face's Switch classes cannot hold this model.",
    value=value,
    rule=rule,
    remedy="write it as safetensors or for T5X",
  )


def _same(said: object, found: object) -> bool:
  # In Python True == 1 and 4.0 == 4.
  return type(said) is type(found) and said == found
