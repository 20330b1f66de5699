# SPDX-License-Identifier: Apache-2.0
"""A student's first parameters, from its teacher's (section 4.2 of the paper).

What both have under the same T5X name and with the same shape is copied, layer by layer: a teacher's
layers are stacked otherwise than those of a dense student. Of tables of the vocabulary, which may be
padded differently, the rows that both have are copied. A feed-forward layer in the place of a sparse
one stays as it was drawn, or is made of that layer's experts.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from switch_t5.checkpoint import tree
from switch_t5.errors import CheckpointError
from switch_t5.interop import names
from switch_t5.interop.checkpoint import StoredArray, StoredCheckpoint
from switch_t5.interop.model_shape import blocks_and_repeats
from switch_t5.model.config import VOCAB_MULTIPLE, ModelConfig
from switch_t5.model.definition import ModelDefinition
from switch_t5.types import PyTree

FRESH, MEAN, MOST_USED, LOAD_MEAN = AS_TEACHER = ("fresh", "mean", "most_used", "load_mean")
BY_LOAD = (MOST_USED, LOAD_MEAN)
_TABLE = "token_embedder/embedding"
_VOCABULARY_AXES = {_TABLE: 0, "decoder/logits_dense/kernel": 1}
_JOINED = {"query", "key", "value", "out", "wi", "wi_0", "wi_1", "wo"}  # one line of the table

_IN_LAYER = re.compile(r"(encoder|decoder)/layers_(\d+)/(.*)")
_Bounds = tuple[tuple[int, int], ...]


class Part(NamedTuple):
  """What becomes of one slice of a parameter, or of a parameter that is not stacked.

  Attributes:
    name: in T5X, e.g. `encoder/layers_3/mlp/wi/kernel`.
    repeat: its index along the first axis; None: it is the whole array.
    shape: of the slice.
    outcome: in words.
    source: the teacher's array it is made of; None: it stays as it was drawn.
    of_experts: whether `source` holds experts, of which it becomes one.
  """

  name: str
  repeat: int | None
  shape: tuple[int, ...]
  outcome: str
  source: str | None = None
  of_experts: bool = False


class StudentParameters:
  """Which parameters a student takes from its teacher.

  Attributes:
    teacher: its checkpoint.
    shares: the part of all choices that each expert had, [E] by layer, e.g. "encoder/layers_3"; alike
      before they are `measured`.

  Args:
    teacher: see there.
    definition: of the student.
    as_teacher: what a feed-forward layer in the place of a sparse one becomes: "fresh", as it was
      drawn; "mean" of the experts; "most_used", the expert with the largest load; "load_mean", the
      mean by load. The latter two want `measured` before `load`.

  Raises:
    CheckpointError: if the teacher's vocabulary or d_model has another size, or if it has no experts
      to make a layer of.
  """

  def __init__(self, teacher: StoredCheckpoint, definition: ModelDefinition, as_teacher: str):
    self.teacher, self._arrays, self._how = teacher, teacher.parameters(), as_teacher
    experts = {name: a.shape[0] for name, a in self._arrays.items() if "/mlp/expert/" in name}
    _check_experts(teacher, as_teacher, bool(experts))
    _check_table(teacher, definition.config)
    self.shares = {_layer(n): np.full(count, 1.0 / count) for n, count in experts.items()}
    self._parts = dict(_parts(definition, self._arrays, as_teacher))

  def measured(self, loads: Mapping[str, np.ndarray]) -> None:
    """Takes how many tokens chose each expert.

    Args:
      loads: [E] by layer, e.g. "encoder/layers_3".
    """
    self.shares |= {layer: load / max(load.sum(), 1.0) for layer, load in loads.items()}

  def load(self, params: PyTree) -> PyTree:
    """Returns the drawn parameters with what the teacher gives in place, each in its own sharding.

    No array is gathered: a process fills the shards that it has. One array of the teacher is in the
    host's memory at a time.
    """
    leaves = tree.leaves_by_path(params)
    order = {name: number for number, name in enumerate(self._arrays)}
    for path, parts in self._parts.items():
      # In the order of the teacher's arrays: slices of a stacked one are read side by side.
      taken = sorted((part for part in parts if part.source), key=lambda p: order[str(p.source)])
      if taken:
        leaves[path] = _filled(leaves[path], ((part.repeat, self._read(part)) for part in taken))
    return jax.tree.unflatten(jax.tree.structure(params), leaves.values())

  def _read(self, part: Part) -> np.ndarray:
    array = self._arrays[str(part.source)].read()
    if not part.of_experts:
      return array
    shares = self.shares[_layer(part.name)]
    if self._how == MOST_USED:
      return array[np.argmax(shares)]
    total = np.zeros(part.shape, np.float32)
    for share, expert in zip(shares, array, strict=True):
      total += np.float32(share) * expert.astype(np.float32)
    return total

  def describe(self) -> str:
    """Returns what became of each kind of parameter, and of which layers where that differs."""
    parts = [self._with_expert(part) for part in itertools.chain(*self._parts.values())]
    total = sum(math.prod(part.shape) for part in parts)
    taken = sum(math.prod(part.shape) for part in parts if part.source)
    first = (
      f"{taken:,} of the student's {total:,} parameters are taken from its teacher {self.teacher.path} "
      f"({self.teacher.format}):"
    )
    return "\n".join([first, *_table(parts)])

  def _with_expert(self, part: Part) -> Part:
    """Returns the part with the number of the one expert it becomes."""
    if not part.of_experts or self._how != MOST_USED:
      return part
    shares = self.shares[_layer(part.name)]
    expert = int(np.argmax(shares))
    chosen = f"{shares[expert]:.0%} of the choices"
    return part._replace(outcome=f"expert {expert} of {len(shares)}, the most used: {chosen}")


def _check_experts(teacher: StoredCheckpoint, as_teacher: str, has_experts: bool) -> None:
  if as_teacher != FRESH and not has_experts:
    raise CheckpointError(
      "The teacher has no experts.",
      value=f"{teacher.path}, InitialCheckpoint.as_teacher = {as_teacher!r}",
      rule="a layer is made of the experts of the sparse one in its place",
      remedy=f"InitialCheckpoint.as_teacher = {FRESH!r}: everything of the same name is copied",
    )


def _check_table(teacher: StoredCheckpoint, student: ModelConfig) -> None:
  """Refuses a table of another width, or with rows that padding does not explain."""
  table = teacher.parameters().get(_TABLE)
  rows, width = table.shape if table is not None and len(table.shape) == 2 else (0, 0)
  if width != student.d_model:
    raise CheckpointError(
      "Nothing of the teacher fits the student.",
      value=f"d_model = {width} in {teacher.path}, {student.d_model} in the student",
      rule="parameters of the same name and shape are copied, and d_model is in almost all shapes",
      remedy="a student with the teacher's d_model, num_heads and d_kv",
    )
  least, most = student.vocab_size, student.padded_vocab_size
  if not least - VOCAB_MULTIPLE < rows < most + VOCAB_MULTIPLE:
    raise CheckpointError(
      "The student and its teacher have vocabularies of different sizes.",
      value=f"{_TABLE} has {rows:,} rows in {teacher.path}, {most:,} in the student",
      rule=f"padding makes a difference of less than {VOCAB_MULTIPLE} rows",
      remedy="a student with the vocabulary of its teacher: VOCABULARY_PATH and "
      "ModelConfig.vocab_size",
    )


def _parts(
  definition: ModelDefinition, arrays: Mapping[str, StoredArray], as_teacher: str
) -> Iterator[tuple[tuple[str, ...], list[Part]]]:
  """Yields each of the student's parameters, by path, with what becomes of its slices."""
  config = definition.config
  layouts = {stack: blocks_and_repeats(config, stack) for stack in ("encoder", "decoder")}
  for path, leaf in tree.leaves_by_path(definition.shapes).items():
    slices = names.unstacked("/".join(path), layouts.get(path[0], ()))
    is_stacked = slices != ["/".join(path)]
    shape = leaf.shape[1:] if is_stacked else leaf.shape
    yield (
      path,
      [
        _part(name, index if is_stacked else None, shape, arrays, as_teacher)
        for index, name in enumerate(slices)
      ],
    )


def _part(
  name: str,
  repeat: int | None,
  shape: tuple[int, ...],
  arrays: Mapping[str, StoredArray],
  as_teacher: str,
) -> Part:
  found, experts = arrays.get(name), name.replace("/mlp/", "/mlp/expert/")
  part = functools.partial(Part, name, repeat, shape)
  if found is not None:
    axis = _VOCABULARY_AXES.get(name)
    if found.shape == shape:
      return part("copied", name)
    if axis is not None and _without(found.shape, axis) == _without(shape, axis):
      rows = min(found.shape[axis], shape[axis])
      return part(f"{rows:,} of {shape[axis]:,} rows copied, the rest drawn", name)
    return part(f"drawn: the teacher's is {list(found.shape)}, not {list(shape)}")
  if experts not in arrays:
    return part("drawn: the teacher has none")
  count, *of_one = arrays[experts].shape
  if as_teacher == FRESH:
    return part(f"drawn: the teacher has {count} experts there")
  if tuple(of_one) != shape:
    return part(f"drawn: the teacher's experts are {of_one}, not {list(shape)}")
  how = "mean by load" if as_teacher == LOAD_MEAN else "mean"
  return part(f"{how} of {count} experts", experts, True)


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
  return shape[:axis] + shape[axis + 1 :]


def _layer(name: str) -> str:
  """Returns `encoder/layers_3` of the name of a parameter in it."""
  return "/".join(name.split("/")[:2])


def _table(parts: Sequence[Part]) -> list[str]:
  """Returns a line for each kind of parameter, and layers where they differ."""
  kinds: dict[str, dict[str, list[str]]] = {}
  for part in parts:
    kind, layer = _kind(part.name)
    layers = kinds.setdefault(kind, {}).setdefault(part.outcome, [])
    if layer not in layers:
      layers.append(layer)
  width = max(map(len, kinds))
  lines = []
  for kind, outcomes in kinds.items():
    label = kind
    for outcome, layers in sorted(outcomes.items(), key=lambda item: int(item[1][0] or 0)):
      which = "" if len(outcomes) == 1 else f"  (layers {', '.join(sorted(layers, key=int))})"
      lines.append(f"  {label:<{width}}  {outcome}{which}")
      label = ""
  return lines


def _kind(name: str) -> tuple[str, str]:
  """Returns what a line of the table is about, and the number of the layer ("" for none)."""
  found = _IN_LAYER.fullmatch(name)
  stack, layer, rest = found.groups() if found else ("", "", name)
  parts = [part for part in (stack, *rest.split("/")) if part]
  if parts[-1] == "kernel":
    parts.pop()
    if parts[-1] in _JOINED:
      parts.pop()
  elif len(parts) > 1:
    parts.pop()
  return "/".join(parts), layer


def _filled(drawn: jax.Array, values: Iterator[tuple[int | None, np.ndarray]]) -> jax.Array:
  """Returns an array with values in the place of what was drawn.

  Args:
    drawn: of any sharding.
    values: the slice of its first axis, or None, and what stands there from the first element on.
  """
  parts: dict[_Bounds, np.ndarray] = {}
  for shard in drawn.addressable_shards:
    bounds = _bounds(shard.index, drawn.shape)
    if bounds not in parts:
      parts[bounds] = np.array(shard.data)
  for index, value in values:
    for bounds, part in parts.items():
      _write(part, bounds, index, value)
  return jax.make_array_from_callback(
    drawn.shape, drawn.sharding, lambda index: parts[_bounds(index, drawn.shape)]
  )


def _bounds(index: tuple[slice, ...] | None, shape: tuple[int, ...]) -> _Bounds:
  """Returns first and end of a shard along each axis."""
  return tuple(part.indices(size)[:2] for part, size in zip(index or (), shape, strict=True))


def _write(part: np.ndarray, bounds: _Bounds, index: int | None, value: np.ndarray) -> None:
  """Writes into one shard what of a value is in it."""
  if index is not None:
    (first, end), *rest = bounds
    if not first <= index < end:
      return
    part, bounds = part[index - first], tuple(rest)
  ends = [min(end, size) for (_, end), size in zip(bounds, value.shape, strict=True)]
  if any(end <= first for (first, _), end in zip(bounds, ends, strict=True)):
    return
  here = tuple(slice(0, end - first) for (first, _), end in zip(bounds, ends, strict=True))
  there = tuple(slice(first, end) for (first, _), end in zip(bounds, ends, strict=True))
  part[here] = value[there]
