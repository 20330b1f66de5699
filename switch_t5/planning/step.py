# SPDX-License-Identifier: Apache-2.0
"""A step before it is traced: its sizes, and the arrays that it keeps between steps."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import Counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from switch_t5.layers.moe.capacity import expert_capacity
from switch_t5.model.config import ModelConfig
from switch_t5.model.definition import ModelDefinition, define_model
from switch_t5.optim.state_axes import optimizer_state_axes
from switch_t5.sharding.mesh import MeshShape
from switch_t5.sharding.rules import PARAMETER_RULES, RULES, Rules
from switch_t5.types import AxisNames, PyTree

STACKS = ("encoder", "decoder")


class Leaf(NamedTuple):
  """An array of the state.

  Attributes:
    path: of its parameter, "encoder/blocks/..."; "" of what mirrors none.
    shape: of all devices.
    axes: logical names.
    itemsize: bytes of a number.
  """

  path: str
  shape: tuple[int, ...]
  axes: AxisNames
  itemsize: int

  def numbers(self, mesh: MeshShape, rules: Rules = RULES) -> int:
    """Returns how many one device has."""
    return math.prod(self.shape) // split(self.axes, mesh, rules)


class StateArrays(NamedTuple):
  """What a step keeps.

  Attributes:
    params: of the model.
    optimizer: its moments and counts.
  """

  params: tuple[Leaf, ...]
  optimizer: tuple[Leaf, ...]


@dataclasses.dataclass(frozen=True)
class Step:
  """What a closed form needs to know of a step.

  Attributes:
    kind: "train", "distill" (of which the student is counted) or "infer".
    model: groups resolved (`ModelConfig.with_lengths`).
    rows: of the global batch.
    lengths: tokens of a row in encoder and decoder.
    mesh: devices along each axis.
    parameter_sharding: a name in `PARAMETER_RULES`.
    microbatches: parts of the batch.
  """

  kind: str
  model: ModelConfig
  rows: int
  lengths: tuple[int, int]
  mesh: MeshShape
  parameter_sharding: str = "replicated"
  microbatches: int = 1

  def laid_out(
    self,
    *,
    mesh: MeshShape | None = None,
    parameter_sharding: str | None = None,
    microbatches: int | None = None,
    remat: str | None = None,
  ) -> Step:
    """Returns the same work in another layout; None leaves as it is."""
    return dataclasses.replace(
      self,
      model=dataclasses.replace(self.model, remat=remat or self.model.remat),
      mesh=mesh or self.mesh,
      parameter_sharding=parameter_sharding or self.parameter_sharding,
      microbatches=microbatches or self.microbatches,
    )

  @property
  def trains(self) -> bool:
    """Whether there is a backward pass."""
    return self.kind != "infer"

  @property
  def device_rows(self) -> int:
    """Rows of a microbatch on one device."""
    return self.rows // (self.microbatches * self.mesh.batch_shards)

  def length(self, stack: str) -> int:
    """Returns the tokens of a row."""
    return self.lengths[STACKS.index(stack)]

  def tokens(self, stack: str) -> int:
    """Returns T: tokens of a microbatch on one device."""
    return self.device_rows * self.length(stack)

  def capacity_factor(self) -> float | None:
    """Returns that of the step: inference is dropless."""
    return self.model.train_capacity_factor if self.trains else None

  def slots(self, stack: str) -> int:
    """Returns rows that a device sends to experts: E * G * C, or T * k without capacity."""
    router, model = self.model.router(stack), self.model
    by_experts = router.kind == "expert_choice"
    factor = router.experts_per_token if by_experts else self.capacity_factor()
    if factor is None:
      return self.tokens(stack) * router.num_selected_experts
    group = model.group_sequences(stack)
    least = 1 if by_experts else model.min_expert_capacity
    capacity = expert_capacity(factor, group * self.length(stack), model.num_experts, least)
    return model.num_experts * (self.device_rows // group) * capacity

  def expert_rows(self, stack: str) -> int:
    """Returns rows that the experts of a device work through: without capacity, room for all."""
    dropless = self.capacity_factor() is None and (self.model.router(stack).kind != "expert_choice")
    return self.slots(stack) * (self.mesh.expert if dropless else 1)


class Sublayer(NamedTuple):
  """A kind of sublayer.

  Attributes:
    name: "self_attention", "cross_attention", "feed_forward", "experts" or "expert_attention".
    is_last: whether it ends a block, so that rematerialisation does not need its output again.
  """

  name: str
  is_last: bool


@functools.cache
def sublayers(model: ModelConfig, stack: str) -> Counter[Sublayer]:
  """Returns how often a stack has each."""
  found: Counter[Sublayer] = Counter()
  for pattern, repeats in model.stack_layout(stack):
    for i, sparse in enumerate(pattern):
      in_attention = sparse and model.sparse_sublayers != "feed_forward"
      in_feed_forward = sparse and model.sparse_sublayers != "attention"
      names = ["expert_attention" if in_attention else "self_attention"]
      names += ["cross_attention"] * (stack == "decoder")
      names += ["experts" if in_feed_forward else "feed_forward"]
      names += ["feed_forward"] * (in_feed_forward and model.num_shared_experts > 0)
      for name in names:
        ends_block = i == len(pattern) - 1 and name in ("experts", "feed_forward")
        found[Sublayer(name, ends_block)] += repeats
  return found


def split(axes: AxisNames, mesh: MeshShape, rules: Rules) -> int:
  """Returns over how many devices an array is split."""
  sizes = mesh._asdict()
  names = [rules[name] for name in axes if name is not None]
  flat = [n for name in names for n in ((name,) if isinstance(name, str) else name or ())]
  return math.prod(sizes[name] for name in flat)


def state_arrays(
  definition: ModelDefinition, optimizer: optax.GradientTransformation | None = None
) -> StateArrays:
  """Returns what a run keeps; without an optimizer the parameters alone. Nothing is allocated."""
  params = _leaves(definition.shapes, definition.axes)
  if optimizer is None:
    return StateArrays(params, ())
  shapes = jax.eval_shape(optimizer.init, definition.shapes)
  axes = optimizer_state_axes(optimizer, definition.shapes, definition.axes)
  return StateArrays(params, _leaves(shapes, axes))


@functools.cache
def parameters(model: ModelConfig) -> tuple[Leaf, ...]:
  """Returns those of a model."""
  return state_arrays(define_model(dataclasses.replace(model, remat="none"))).params


def device_bytes(leaves: tuple[Leaf, ...], step: Step) -> int:
  """Returns what arrays take of one device, as `training.state.device_bytes` of their shards."""
  rules = PARAMETER_RULES[step.parameter_sharding]
  return sum(leaf.numbers(step.mesh, rules) * leaf.itemsize for leaf in leaves)


def _leaves(shapes: PyTree, axes: PyTree) -> tuple[Leaf, ...]:
  entries = jax.tree_util.tree_leaves_with_path(shapes)
  structure: Any = jax.tree.structure(shapes)
  names = structure.flatten_up_to(axes)
  return tuple(
    Leaf(
      jax.tree_util.keystr(path, simple=True, separator="/"),
      leaf.shape,
      tuple(name),
      jnp.dtype(leaf.dtype).itemsize,
    )
    for (path, leaf), name in zip(entries, names, strict=True)
  )
