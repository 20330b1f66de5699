# SPDX-License-Identifier: Apache-2.0
"""Which model a checkpoint holds, read from the names and shapes of its parameters.

Nothing else is asked: not a configuration beside it, which may be of another model. Sizes, layers,
experts and their places follow from the arrays; how tokens are routed and trained does not.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from switch_t5.checkpoint.tree import indented
from switch_t5.errors import CheckpointError, ConfigError
from switch_t5.interop import names
from switch_t5.layers.relative_position import NUM_BUCKETS
from switch_t5.model.config import SPARSE_LAYOUTS, ModelConfig, sparse_runs

Shape = tuple[int, ...]
# What a checkpoint's arrays say of a model beside its vocabulary and its experts, as ModelConfig names it.
DENSE_SIZES = (
  "d_model",
  "d_ff",
  "d_kv",
  "num_heads",
  "num_encoder_layers",
  "num_decoder_layers",
  "mlp_activations",
  "logits_via_embedding",
)
_MAX_LAYERS = 1000
_TABLE = "token_embedder/embedding"
_BIAS = "encoder/relpos_bias/rel_embedding"


def deduce_model(shapes: Mapping[str, Shape], where: object) -> ModelConfig:
  """Returns the model whose parameters these are; its routing and rates are the defaults.

  Args:
    shapes: by T5X's names, e.g. `encoder/layers_0/mlp/wi/kernel`; all of them.
    where: the checkpoint, for the message.

  Raises:
    CheckpointError: with each name that is missing, unknown or of a shape that does not fit.
  """
  try:
    return _deduce(shapes)
  except CheckpointError as error:
    value = where if error.value is None else f"{where}: {error.value}"
    raise CheckpointError(error.what, value=value, rule=error.rule, remedy=error.remedy) from None


def _deduce(shapes: Mapping[str, Shape]) -> ModelConfig:
  vocab_size, d_model = _axes(shapes, _TABLE, 2)
  num_heads, buckets = _axes(shapes, _BIAS, 2)
  joined = _axes(shapes, "encoder/layers_0/attention/query/kernel", 2)[1]
  if joined % num_heads or buckets != NUM_BUCKETS:
    raise _refuse(
      f"{num_heads} heads and {buckets} buckets in {_BIAS}, queries of {joined}",
      f"queries divide over the heads, and relative positions have {NUM_BUCKETS} buckets",
    )
  layers = {stack: _count_layers(shapes, stack) for stack in ("encoder", "decoder")}
  sparse = {
    stack: [i for i in range(count) if f"{stack}/layers_{i}/{_ROUTER}" in shapes]
    for stack, count in layers.items()
  }
  activations = ("relu",) if _any(shapes, r".*/wi/kernel") else ("gelu", "linear")
  sizes: dict[str, Any] = {
    "vocab_size": vocab_size,
    "d_model": d_model,
    "d_kv": joined // num_heads,
    "num_heads": num_heads,
    "num_encoder_layers": layers["encoder"],
    "num_decoder_layers": layers["decoder"],
    "mlp_activations": activations,
    "logits_via_embedding": "decoder/logits_dense/kernel" not in shapes,
  }
  sizes |= _widths(shapes)
  if any(sparse.values()):
    sizes |= {"sequences_per_group": 1, "init_scale": 0.1}
    for stack in layers:
      sizes |= _sparse_layout(stack, layers[stack], sparse[stack])
  try:
    config = ModelConfig(**sizes)
  except ConfigError as error:
    raise _refuse(str(error.value), str(error.rule)) from error
  _check_shapes(shapes, expected_shapes(config))
  return config


_ROUTER = "mlp/router/router_weights/w/kernel"


def expected_shapes(config: ModelConfig) -> dict[str, Shape]:
  """Returns what a model's parameters are in T5X, by name; its table has `vocab_size` rows."""
  sizes = {
    "V": config.vocab_size,
    "d": config.d_model,
    "a": config.num_heads * config.d_kv,
    "H": config.num_heads,
    "E": config.num_experts,
    "b": NUM_BUCKETS,
  }
  gated = len(config.mlp_activations) > 1
  shapes = {}
  for row in names.TABLE:
    last = row.t5x.split("/")[-2]
    if last in ("wi", "wi_0", "wi_1") and gated == (last == "wi"):
      continue
    if last == "logits_dense" and config.logits_via_embedding:
      continue
    in_expert = "/mlp/expert/" in row.t5x
    width = config.expert_width if in_expert else config.d_ff
    shape = tuple(width if axis == "f" else sizes[axis] for axis in row.shape)
    for layer in _layers_of(row, config):
      shapes[row.t5x.format(layer=layer)] = shape
  return shapes


def sparse_layers(config: ModelConfig, stack: str) -> list[int]:
  """Returns the numbers of a stack's sparse layers."""
  return _sparse_of(config.stack_layout(stack))


def _sparse_of(runs: tuple[tuple[tuple[bool, ...], int], ...]) -> list[int]:
  kinds = [kind for block, repeats in runs for kind in block * repeats]
  return [i for i, is_sparse in enumerate(kinds) if is_sparse]


def blocks_and_repeats(config: ModelConfig, stack: str) -> tuple[tuple[int, int], ...]:
  """Returns, for each run of a stack, the layers of its block and the block's repeats."""
  return tuple((len(block), repeats) for block, repeats in config.stack_layout(stack))


def _layers_of(row: names.Row, config: ModelConfig) -> Iterator[int | None]:
  """Yields the layers that have a parameter of this kind; None for one that is in no layer."""
  if "{layer}" not in row.t5x:
    yield None
    return
  stack = row.t5x.partition("/")[0]
  sparse = sparse_layers(config, stack)
  in_mlp = "/mlp/" in row.t5x
  only_sparse = "/mlp/expert/" in row.t5x or "/mlp/router/" in row.t5x
  for layer in range(getattr(config, f"num_{stack}_layers")):
    if not in_mlp or only_sparse == (layer in sparse):
      yield layer


def _axes(shapes: Mapping[str, Shape], name: str, count: int) -> Shape:
  shape = shapes.get(name)
  if shape is None:
    scanned = _any(shapes, r"(encoder|decoder)/(encoder|decoder|layers|blocks)/.*")
    remedy = (
      "its layers are stacked (scan_layers), with relative positions of their own: T5X can save it "
      "unstacked"
    )
    raise _refuse(f"there is no {name}", "a T5 encoder-decoder", remedy if scanned else None)
  if len(shape) != count:
    raise _refuse(f"{name} has shape {shape}", f"it has {count} axes")
  return shape


def _count_layers(shapes: Mapping[str, Shape], stack: str) -> int:
  numbers = {
    int(match[1]) for name in shapes if (match := re.match(rf"{stack}/layers_(\d{{1,6}})/", name))
  }
  count = max(numbers, default=-1) + 1
  if count != len(numbers) or not 1 <= count <= _MAX_LAYERS:
    raise _refuse(
      f"{len(numbers)} layers in the {stack}, numbered up to {count - 1}",
      f"layers are numbered from 0 without a gap, at most {_MAX_LAYERS}",
    )
  return count


def _widths(shapes: Mapping[str, Shape]) -> dict[str, int | None]:
  """Returns d_ff, num_experts and expert_d_ff."""
  dense = next((s for n, s in shapes.items() if re.search(r"/mlp/wo/kernel$", n)), None)
  experts = next((s for n, s in shapes.items() if n.endswith("/mlp/expert/wo/kernel")), None)
  if experts is None:
    return {"d_ff": dense[0] if dense else 0}
  if len(experts) != 3:
    raise _refuse(f"experts' wo of shape {experts}", "[experts, width, d_model]")
  width = dense[0] if dense else experts[1]
  return {
    "d_ff": width,
    "num_experts": experts[0],
    "expert_d_ff": None if experts[1] == width else experts[1],
  }


def _sparse_layout(stack: str, layers: int, sparse: list[int]) -> dict[str, Any]:
  """Returns the layout that puts the sparse layers of a stack where they are."""
  count = len(sparse)
  for layout in SPARSE_LAYOUTS:
    fits = {"mixed": not count or layers % count == 0, "all": count == layers}.get(layout, True)
    if fits and _sparse_of(sparse_runs(layers, count, layout)) == sparse:
      return {f"num_{stack}_sparse_layers": count, f"{stack}_sparse_layout": layout}
  raise _refuse(
    f"the sparse layers of the {stack} are {', '.join(map(str, sparse))} of {layers}",
    f"a layout that ModelConfig.{stack}_sparse_layout has: {', '.join(SPARSE_LAYOUTS)}; mixed has "
    "the last layer of every run of m layers",
  )


def _check_shapes(found: Mapping[str, Shape], wanted: Mapping[str, Shape]) -> None:
  lines = [f"+ {name}  {list(found[name])}" for name in sorted(found.keys() - wanted.keys())]
  lines += [f"- {name}  {list(wanted[name])}" for name in sorted(wanted.keys() - found.keys())]
  lines += [
    f"~ {name}  {list(found[name])}, expected {list(wanted[name])}"
    for name in sorted(found.keys() & wanted.keys())
    if tuple(found[name]) != wanted[name]
  ]
  if lines:
    raise CheckpointError(
      "The checkpoint is not of a T5 or Switch model (+ unknown, - missing, ~ of another shape):\n  "
      + indented(lines),
      rule="the parameters of T5 1.0, T5 1.1 or Switch, complete, and no others",
    )


def _any(shapes: Collection[str], pattern: str) -> bool:
  return any(re.fullmatch(pattern, name) for name in shapes)


def _refuse(value: str, rule: str, remedy: str | None = None) -> CheckpointError:
  return CheckpointError(
    "The checkpoint is not of a T5 or Switch model.", value=value, rule=rule, remedy=remedy
  )
