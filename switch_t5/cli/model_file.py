# SPDX-License-Identifier: Apache-2.0
"""The gin file of a model that came from elsewhere, and what a run's own says of its checkpoint."""

from __future__ import annotations

import dataclasses
from typing import Any

from switch_t5.checkpoint.manager import CONFIG
from switch_t5.cli import gin_setup
from switch_t5.cli.configurables import CONFIGURABLES
from switch_t5.data import file_copies
from switch_t5.data.vocabulary import embedded_vocabulary_path
from switch_t5.errors import ConfigError
from switch_t5.interop.huggingface import TOKENIZER
from switch_t5.interop.model_shape import DENSE_SIZES
from switch_t5.model.config import ModelConfig
from switch_t5.model.router_config import RouterConfig
from switch_t5.storage import files
from switch_t5.storage.location import Location, location

_SIZES = [
  "vocab_size",
  *DENSE_SIZES,
  "num_encoder_sparse_layers",
  "num_decoder_sparse_layers",
  "encoder_sparse_layout",
  "decoder_sparse_layout",
  "expert_d_ff",
]
# What a run's file sets beside a model's.
NO_DROPOUT = ("DROPOUT_RATE = 0.0", "EXPERT_DROPOUT_RATE = 0.0")
_GROUP_SIZE = 4096  # tokens: of the released Switch models', 2048 to 8192


def render(config: ModelConfig, path: str, kind: str) -> str:
  """Returns a gin file of the model, to include before a run's file; sizes are all it knows."""
  published = published_file(config)
  lines = [f"# The model of {path} ({kind}), as its arrays have it."]
  if published:
    return "\n".join([*lines, "", f"include '{published}'", *_routing(config), ""])
  lines += [
    "# How it routes and regularises is our default: see to it.",
    "",
    "include 'models/t5.gin'",
  ]
  if config.num_experts:
    lines += ["include 'models/switch.gin'", "", f"NUM_EXPERTS = {config.num_experts}"]
    lines.append(f"ModelConfig.group_size = {_GROUP_SIZE}")
  defaults = ModelConfig.__dataclass_fields__
  for name in _SIZES:
    value = getattr(config, name)
    if name not in defaults or value != defaults[name].default:
      lines.append(f"ModelConfig.{name} = {value!r}")
  return "\n".join([*lines, *_routing(config), ""])


def _routing(config: ModelConfig) -> list[str]:
  """Returns the bindings of the routers' options that are not the defaults."""
  lines = []
  for stack in config.sparse_stacks:
    for field in dataclasses.fields(RouterConfig):
      value = getattr(config.router(stack), field.name)
      if value != field.default:
        lines.append(f"{stack}/RouterConfig.{field.name} = {value!r}")
  return lines


def published_file(config: ModelConfig) -> str | None:
  """Returns the file of `models/` whose sizes these are."""
  for path in sorted((gin_setup.packaged_configs() / "models").glob("*.gin")):
    name = f"models/{path.name}"
    try:
      configuration = gin_setup.load([name], NO_DROPOUT, [], CONFIGURABLES)
      model: ModelConfig = configuration.call("ModelConfig")
    except ConfigError:  # a base, which is not a model by itself
      continue
    same = [getattr(model, n) == getattr(config, n) for n in (*_SIZES[1:], "num_experts")]
    if all(same) and model.padded_vocab_size == config.padded_vocab_size:
      return name
  return None


def complete(text: str) -> str:
  """Returns a rendered file with what a run's would add, so that a checkpoint says how it routes."""
  return "\n".join([text, *NO_DROPOUT, "ModelConfig.activation_dtype = 'float32'", ""])


def vocabulary_of(checkpoint: Location) -> Location | None:
  """Returns the vocabulary of a checkpoint of ours: its run's, or the one that it came with."""
  named = vocabulary(checkpoint / CONFIG)
  if named is not None:
    return named
  beside = checkpoint.parent.parent / TOKENIZER
  return beside if files.is_file(beside) else None


def vocabulary(config_file: Location) -> Location | None:
  """Returns the vocabulary that a run's config.gin names; None if there is no such file."""
  dataset = configured(config_file, "DatasetConfig")
  if dataset is None:
    return None
  return location(dataset.vocabulary_path or embedded_vocabulary_path())


def model(config_file: Location) -> ModelConfig | None:
  """Returns the model of a run's config.gin; None if there is no such file, or it does not say."""
  found: ModelConfig | None = configured(config_file, "ModelConfig")
  return found


def check_plain_routing(config_file: Location) -> None:
  """Raises ConfigError if a run's config.gin routes as Hugging Face's class does not."""
  config = model(config_file)
  for stack in config.sparse_stacks if config else ():
    router, plain = config.router(stack), RouterConfig()  # type: ignore[union-attr]
    names = ("kind", "num_selected_experts", "scores")
    if any(getattr(router, name) != getattr(plain, name) for name in names):
      raise ConfigError(
        "Hugging Face's SwitchTransformers cannot route as this model does.",
        value=f"{stack}_router: {router!r}",
        rule="each token goes to the one expert with the largest softmax probability",
        remedy="export it with --format=t5x or safetensors",
      )


def configured(config_file: Location, name: str) -> Any:
  """Returns what a run's operative configuration makes of a configurable; None if there is none."""
  if not files.is_file(config_file):
    return None
  try:
    here = str(file_copies.copy_file(config_file))
    configuration = gin_setup.load([here], [], [], CONFIGURABLES)
    return configuration.call(name)
  except ConfigError:  # of a model that was imported: its file is half of a configuration
    return None
