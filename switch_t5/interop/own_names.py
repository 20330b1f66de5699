# SPDX-License-Identifier: Apache-2.0
"""A checkpoint's arrays under our names: layers stacked over the repeats of their block.

Parameters are float32 with us, whatever they are stored in; the table is padded with rows of zeros to
a multiple of 128. Adafactor's state follows its parameter:

| | T5X | ours |
|---|---|---|
| what a parameter does not use of v, v_row, v_col | zeros (1,) | zeros, its expert axis + (1,) |
| m | zeros (1,) | not there: no momentum |
| v_row of an expert's kernel | means over d_ff | means over the largest axis (Shazeer & Stern, 2018) |

so where an expert is narrower than d_model, v_row and v_col change places; the update that follows
from them is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from switch_t5.checkpoint import tree
from switch_t5.errors import CheckpointError
from switch_t5.interop import names
from switch_t5.interop.checkpoint import (
  PARAM_STATES,
  PARAMETERS,
  SLOTS,
  STEP,
  StackedArray,
  StoredArray,
  StoredCheckpoint,
)
from switch_t5.interop.model_shape import blocks_and_repeats
from switch_t5.model.config import VOCAB_MULTIPLE, ModelConfig
from switch_t5.model.definition import ModelDefinition

FLOAT = np.dtype(np.float32)
_TABLE = f"{PARAMETERS}token_embedder/embedding"


def stack_parameters(checkpoint: StoredCheckpoint, config: ModelConfig) -> dict[str, StackedArray]:
  """Returns the parameters by our names, `encoder/blocks/layers_0/mlp/wi/kernel`.

  Args:
    checkpoint: whose parameters are exactly those of `config`.
    config: of the model (`deduce_model`).
  """
  rows = config.padded_vocab_size
  pieces = {name: _as_float(array) for name, array in checkpoint.parameters().items()}
  for name, axis in (("token_embedder/embedding", 0), ("decoder/logits_dense/kernel", 1)):
    if name in pieces:
      pieces[name] = _padded(pieces[name], axis, rows)
  return _stack(pieces, config)


def stack_adafactor(
  checkpoint: StoredCheckpoint, config: ModelConfig
) -> dict[str, StackedArray] | None:
  """Returns Adafactor's state by our names, `v_row/encoder/blocks/...`.

  None if there is no state that we can go on with (`optimizer_obstacle`).

  Raises:
    CheckpointError: if some of it is missing.
  """
  if optimizer_obstacle(checkpoint):
    return None
  states, parameters = _states(checkpoint), checkpoint.parameters()
  wanted = {f"{name}/{slot}" for name in parameters for slot in SLOTS}
  without_step = [] if STEP in checkpoint.arrays else [STEP]
  if missing := sorted(wanted ^ states.keys()) + without_step:
    raise CheckpointError(
      "Adafactor's state in the checkpoint is not complete.",
      value=f"{checkpoint.path}: {missing[0]} and {len(missing) - 1} more",
      rule="m, v, v_row and v_col of every parameter, no others, and the step",
      remedy="copy the checkpoint again, or start from its parameters with INITIAL_CHECKPOINT_PATH",
    )
  stacked: dict[str, StackedArray] = {}
  for slot in ("v_row", "v_col", "v"):
    pieces = {}
    for name, parameter in parameters.items():
      pieces[name] = _own_slot(name, parameter, states, slot)
    stacked |= {f"{slot}/{name}": array for name, array in _stack(pieces, config).items()}
  return stacked


def optimizer_obstacle(checkpoint: StoredCheckpoint) -> str:
  """Returns why a run of ours cannot go on with a checkpoint's optimizer state; "" if it can."""
  states, parameters = _states(checkpoint), checkpoint.parameters()
  if not states:
    return "There is no optimizer state in it."
  if not any(f"{name}/{slot}" in states for name in parameters for slot in SLOTS):
    return "Its optimizer state is not Adafactor's: left aside."
  if any(name.endswith("/m") and array.shape != (1,) for name, array in states.items()):
    return (
      "Its Adafactor has momentum (beta1), which ours has not: the optimizer state is left aside."
    )
  if checkpoint.arrays[_TABLE].shape[0] % VOCAB_MULTIPLE:
    return "Its table is padded with rows that have no optimizer state: the state is left aside."
  return ""


def load_params(checkpoint: StoredCheckpoint, definition: ModelDefinition) -> dict[str, Any]:
  """Returns the parameters as the nested dictionary that `definition.build` takes, in NumPy."""
  stacked = stack_parameters(checkpoint, definition.config)
  return tree.nested({tuple(name.split("/")): array.read() for name, array in stacked.items()})


def swaps_factors(name: str, shape: tuple[int, ...]) -> bool:
  """Returns whether our v_row of a parameter is T5X's v_col.

  Args:
    name: in T5X.
    shape: of the parameter in T5X.
  """
  found = names.find_t5x(name)
  if found is None or not found.row.shape.startswith("E"):
    return False
  _, rows, columns = shape
  # T5X's v_row has d_model's axis; ours drops the largest axis, the last one of two equal ones.
  return rows > columns if found.row.shape == "Edf" else columns >= rows


def _own_slot(
  name: str, parameter: StoredArray, states: Mapping[str, StoredArray], slot: str
) -> StoredArray:
  if swaps_factors(name, parameter.shape):
    slot = {"v_row": "v_col", "v_col": "v_row"}.get(slot, slot)
  stored = states[f"{name}/{slot}"]
  found = names.find_t5x(name)
  experts = parameter.shape[:1] if found and found.row.shape.startswith("E") else ()
  if experts and stored.shape == (1,):
    shape = (*experts, 1)
    return StoredArray(shape, FLOAT, lambda: np.zeros(shape, FLOAT))
  return _as_float(stored)


def _states(checkpoint: StoredCheckpoint) -> dict[str, StoredArray]:
  """Returns the optimizer's state by parameter and slot."""
  return {
    name.removeprefix(PARAM_STATES): array
    for name, array in checkpoint.arrays.items()
    if name.startswith(PARAM_STATES)
  }


def _stack(pieces: Mapping[str, StoredArray], config: ModelConfig) -> dict[str, StackedArray]:
  layouts = {stack: blocks_and_repeats(config, stack) for stack in ("encoder", "decoder")}
  slices: dict[str, dict[int | None, StoredArray]] = {}
  for name, piece in pieces.items():
    own, index = names.stacked(name, layouts.get(name.partition("/")[0], ()))
    slices.setdefault(own, {})[index] = piece
  stacked = {}
  for own, by_index in slices.items():
    if None in by_index:
      stacked[own] = StackedArray(by_index[None].shape, (by_index[None],), False)
      continue
    parts = tuple(by_index[i] for i in range(len(by_index)))
    shapes = {part.shape for part in parts}
    if len(shapes) > 1:
      raise CheckpointError(
        "Layers of the checkpoint that are alike have arrays of different shapes.",
        value=f"{own}: {', '.join(map(str, sorted(shapes)))}",
        rule="the layers of a stack have the same sizes, and the same second moments are factored",
      )
    stacked[own] = StackedArray((len(parts), *parts[0].shape), parts, True)
  return stacked


def _as_float(array: StoredArray) -> StoredArray:
  if array.dtype == FLOAT:
    return array
  return StoredArray(array.shape, FLOAT, lambda: array.read().astype(FLOAT))


def _padded(array: StoredArray, axis: int, size: int) -> StoredArray:
  """Returns the array with zeros at the end of an axis."""
  more = size - array.shape[axis]
  if not more:
    return array
  shape = tuple(n + more * (i == axis) for i, n in enumerate(array.shape))
  widths = [(0, more * (i == axis)) for i in range(len(shape))]
  return StoredArray(shape, array.dtype, lambda: np.pad(array.read(), widths))
