# SPDX-License-Identifier: Apache-2.0
"""A dense model as a Switch model that begins where it is (Komatsuzaki et al. 2023, 2212.05055).

Each expert is a copy of the dense layer in its place; what else both models have is copied. The
routers are new. They are drawn so small that a token's scores are all but equal while the largest
still differs from token to token: all gates are then known, and the experts' last kernel is divided
by what those of a token add up to. So a layer's output is the dense layer's, wherever no token is
dropped: to `TOLERANCE` of it, where the router's input has a mean square of 1.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from switch_t5.errors import CheckpointError, ConfigError
from switch_t5.interop import names
from switch_t5.interop.checkpoint import PARAMETERS, STEP, StoredArray, StoredCheckpoint
from switch_t5.interop.model_shape import DENSE_SIZES, deduce_model, expected_shapes, sparse_layers
from switch_t5.model.config import ModelConfig
from switch_t5.model.router_config import RouterConfig

TOLERANCE = 5e-4  # the greatest of 256 scores is 2.8 standard deviations above their mean
_LOGIT = 1e-4  # standard deviation of a router's logits, for an input of mean square 1
_FLOAT = np.dtype(np.float32)
_SAME = (*DENSE_SIZES, "padded_vocab_size")


def upcycle(dense: StoredCheckpoint, target: ModelConfig) -> StoredCheckpoint:
  """Returns the Switch model's parameters, each read when asked for, and the dense model's step.

  Args:
    dense: of any format; its optimizer's state is left aside.
    target: the Switch model.

  Raises:
    CheckpointError: if the checkpoint is of no T5 model, or of one that has experts already.
    ConfigError: if the target has other sizes, or what no dense layer can become.
  """
  source = deduce_model(dense.parameter_shapes(), dense.path)
  if source.num_experts:
    raise CheckpointError(
      "The checkpoint is no dense model's.",
      value=f"{dense.path}: {source.num_experts} experts",
      rule="experts are copies of a dense layer",
    )
  check_target(source, target)
  parameters = dense.parameters()
  # The table keeps its rows, as stored: it is padded like any other that is imported.
  shapes = expected_shapes(dataclasses.replace(target, vocab_size=source.vocab_size))
  arrays = {}
  for name, shape in shapes.items():
    if "/mlp/router/" in name:
      array = StoredArray(shape, _FLOAT, functools.partial(_draw_router, name, shape))
    elif "/mlp/expert/" in name:
      total = gates_of_a_token(target.router(name.partition("/")[0]), target.num_experts)
      scale = 1.0 / total if name.endswith("/wo/kernel") else 1.0
      array = _experts(parameters[name.replace("/expert/", "/")], shape, scale)
    else:
      array = parameters[name]
    arrays[PARAMETERS + name] = array
  if STEP in dense.arrays:
    arrays[STEP] = dense.arrays[STEP]
  return dataclasses.replace(dense, format=f"{dense.format}, upcycled", arrays=arrays, notes=())


def check_target(source: ModelConfig, target: ModelConfig) -> None:
  """Raises ConfigError unless each layer of the Switch model is made of one of the dense model."""
  wrong = [
    f"{name} {getattr(target, name)}, not {getattr(source, name)}"
    for name in _SAME
    if getattr(target, name) != getattr(source, name)
  ]
  if target.expert_width != target.d_ff:
    wrong.append(f"expert_d_ff {target.expert_d_ff}, not {target.d_ff}")
  if wrong:
    raise ConfigError(
      "The Switch model has other sizes than the dense one.",
      value="; ".join(wrong),
      rule="what both have is copied, and an expert is as wide as the dense layer",
      remedy="the Switch model of the same base, e.g. models/switch_base_8.gin for T5 Base; or the "
      "dense model's file, then models/switch.gin and what it wants",
    )
  _check(target.num_experts > 0, "num_experts", 0, "the target is a Switch model")
  for name, value in (("sparse_sublayers", "feed_forward"), ("num_shared_experts", 0)):
    found = getattr(target, name)
    _check(found == value, name, found, f"experts are made of feed-forward layers: {value!r}")
  for stack in target.sparse_stacks:
    gates_of_a_token(target.router(stack), target.num_experts)


def gates_of_a_token(router: RouterConfig, num_experts: int) -> float:
  """Returns what the gates of a token add up to where all scores are equal and none is dropped.

  Raises:
    ConfigError: if it is not the same for every token, or if the router is no checkpoint's.
  """
  for name, value, why in (
    ("kind", "top_k", "tokens choose experts, by a kernel"),
    ("second_expert_policy", "all", "all tokens have as many experts"),
    ("bias_update_rate", 0.0, "other systems have no bias of the router"),
  ):
    found = getattr(router, name)
    _check(found == value, f"RouterConfig.{name}", found, f"{why}: {value!r}")
  if router.renormalize_gates:
    return 1.0
  score = 0.5 if router.scores == "sigmoid" else 1.0 / num_experts
  return router.num_selected_experts * score


def describe(target: ModelConfig) -> list[str]:
  """Returns, a line for each stack, what the experts are made of, and how a token's gates are made up for."""
  lines = []
  for stack in target.sparse_stacks:
    layers = ", ".join(map(str, sparse_layers(target, stack)))
    total = gates_of_a_token(target.router(stack), target.num_experts)
    scaled = "as it is" if total == 1.0 else f"times {1.0 / total:g}"
    lines.append(
      f"{stack}: the {target.num_experts} experts of layers {layers} are copies, wo {scaled} (the "
      f"gates of a token add up to {total:g})"
    )
  return lines


def _check(holds: bool, name: str, value: object, rule: str) -> None:
  if not holds:
    raise ConfigError(
      "A dense model cannot become this one.", value=f"{name} = {value!r}", rule=rule
    )


def _experts(dense: StoredArray, shape: tuple[int, ...], scale: float) -> StoredArray:
  """Returns copies of a kernel, [experts, ...]."""

  def read() -> np.ndarray:
    copies = np.empty(shape, dense.dtype if scale == 1.0 else _FLOAT)
    copies[:] = dense.read() if scale == 1.0 else dense.read().astype(_FLOAT) * _FLOAT.type(scale)
    return copies

  return StoredArray(shape, dense.dtype if scale == 1.0 else _FLOAT, read)


def _draw_router(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """Returns a router's new kernel; it follows from its layer alone."""
  found = names.find_t5x(name)
  assert found is not None  # it is of expected_shapes
  seed = (int(name.startswith("decoder/")), found.layer or 0)
  scale = _LOGIT / shape[0] ** 0.5
  return np.random.default_rng(seed).normal(scale=scale, size=shape).astype(_FLOAT)
