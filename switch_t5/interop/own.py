# SPDX-License-Identifier: Apache-2.0
"""Our own checkpoints among the others: read under T5X's names, and written array by array.

A run saves what it holds in memory; a conversion must not hold a model at once. `write_own` gives
Orbax arrays that are read while they are written, so what it makes is what a run would have saved,
its manifest included.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping

import numpy as np

from switch_t5.checkpoint import stored_steps, tree
from switch_t5.checkpoint.commit import SaveState, StateCheckpointer, StateHandler, rename_durably
from switch_t5.checkpoint.listing import good_manifest, verify_checkpoint
from switch_t5.checkpoint.manager import CONFIG, DATA_STATE, IMPORTED_FROM
from switch_t5.checkpoint.manifest import seal
from switch_t5.interop import names, orbax_stream, untrusted, zarr
from switch_t5.interop.checkpoint import (
  PARAM_STATES,
  PARAMETERS,
  STEP,
  LastRead,
  Progress,
  StackedArray,
  StoredArray,
  StoredCheckpoint,
)
from switch_t5.interop.own_names import (
  FLOAT,
  stack_adafactor,
  stack_parameters,
  swaps_factors,
)
from switch_t5.model.config import ModelConfig
from switch_t5.model.stack import run_name
from switch_t5.storage.location import Location, is_remote

FORMAT = "switch_t5"
_Arrays = dict[str, StoredArray]
_PARAMS = "params/"


def open_own(path: Location) -> StoredCheckpoint:
  """Opens a checkpoint of ours, `.../checkpoint_<step>`, once all its bytes are verified.

  Raises:
    CheckpointError: if it is damaged.
  """
  zarr.check_files(path)
  manifest = good_manifest(path, verify_checkpoint(path))
  stored = {name.replace(".", "/"): array for name, array in zarr.open_ocdbt(path).items()}
  found = {name: str(array) for name, array in stored.items()}
  tree.check_same_arrays(manifest.state, found, str(path))
  last = LastRead()
  parameters = _unstacked(_below(stored, _PARAMS), last, _PARAMS)
  arrays = {PARAMETERS + name: array for name, array in parameters.items()}
  arrays[STEP] = stored["step"]
  states, notes = _adafactor(stored, parameters, last)
  return StoredCheckpoint(path, FORMAT, arrays | states, notes)


def write_own(
  checkpoint: StoredCheckpoint,
  config: ModelConfig,
  directory: Location,
  config_text: str,
  progress: Progress,
) -> Location:
  """Writes `<directory>/checkpoint_<step>` as a run would have saved it, and returns it.

  Its data state says that the position in the data is not known; a checkpoint without Adafactor's
  state has parameters and step only.

  Args:
    checkpoint: whose parameters are exactly those of `config`.
    config: of the model.
    directory: `<MODEL_DIR>/checkpoints`.
    config_text: saved beside it as config.gin.
    progress: see `checkpoint`.
  """
  step = checkpoint.step
  count = StoredArray((), np.dtype(np.int32), lambda: np.asarray(step, np.int32))
  leaves = {"step": StackedArray((), (count,), False)}
  leaves |= {_PARAMS + n: array for n, array in stack_parameters(checkpoint, config).items()}
  if states := stack_adafactor(checkpoint, config):
    leaves["opt_state/count"] = leaves["step"]
    leaves |= {f"opt_state/{name}": array for name, array in states.items()}
  by_path = {tuple(name.split("/")): array for name, array in leaves.items()}
  texts = {DATA_STATE: json.dumps({IMPORTED_FROM: checkpoint.format}), CONFIG: config_text}

  def commit(temporary: Location, final: Location) -> None:
    seal(temporary, step, tree.array_types(by_path), 1)
    if is_remote(final):
      stored_steps.unmark(final)
    else:
      rename_durably(temporary, final)

  target = directory / f"checkpoint_{step}"
  handler = StateHandler(type_handler_registry=orbax_stream.streaming_registry(progress))
  with StateCheckpointer(commit, handler) as checkpointer:
    checkpointer.save(target, args=SaveState(tree.nested(by_path), texts=texts))
  return target


def _below(stored: Mapping[str, StoredArray], prefix: str) -> _Arrays:
  return {
    name.removeprefix(prefix): array for name, array in stored.items() if name.startswith(prefix)
  }


def _unstacked(stored: Mapping[str, StoredArray], last: LastRead, where: str) -> _Arrays:
  """Returns our arrays cut into layers, by T5X's names, those of one array side by side."""
  runs = _runs(stored)
  arrays: _Arrays = {}
  for name in sorted(stored):
    array, match = stored[name], names.IN_RUN.fullmatch(name)
    if match is None:
      arrays[name] = array
      continue
    stack, run, layer, rest = match.groups()
    first, block, repeats = runs[stack, run]
    if array.shape[:1] != (repeats,):
      raise untrusted.refuse(name, f"shape {array.shape} in a run of {repeats} repeats")
    for i in range(repeats):
      read = functools.partial(_read_slice, last, where + name, array, i)
      piece = StoredArray(array.shape[1:], array.dtype, read)
      arrays[f"{stack}/layers_{first + i * block + int(layer)}/{rest}"] = piece
  return arrays


def _read_slice(last: LastRead, name: str, array: StoredArray, index: int) -> np.ndarray:
  return last.read(name, array)[index]


def _runs(stored: Mapping[str, StoredArray]) -> dict[tuple[str, str], tuple[int, int, int]]:
  """Returns for each run its first layer, the layers of its block and the block's repeats."""
  blocks: dict[tuple[str, str], tuple[int, int]] = {}
  for name, array in stored.items():
    if match := names.IN_RUN.fullmatch(name):
      key = (match[1], match[2])
      block, _ = blocks.get(key, (0, 0))
      blocks[key] = (max(block, int(match[3]) + 1), array.shape[0] if array.shape else 0)
  runs = {}
  for stack in ("encoder", "decoder"):
    first = 0
    for i in range(len(blocks)):
      if (stack, run_name(i)) in blocks:
        block, repeats = blocks[stack, run_name(i)]
        runs[stack, run_name(i)] = (first, block, repeats)
        first += block * repeats
  return runs


def _adafactor(
  stored: Mapping[str, StoredArray], parameters: Mapping[str, StoredArray], last: LastRead
) -> tuple[_Arrays, tuple[str, ...]]:
  """Returns the optimizer's state by T5X's names, and what to say where there is none."""
  of_optimizer = _below(stored, "opt_state/")
  if not of_optimizer:
    return {}, ()
  # Below "1/" where the gradients' norm is clipped first.
  prefix = "1/" if "1/v_row/token_embedder/embedding" in of_optimizer else ""
  if f"{prefix}v_row/token_embedder/embedding" not in of_optimizer:
    return {}, ("The optimizer's state is not Adafactor's: it is left aside.",)
  slots = {
    slot: _unstacked(_below(of_optimizer, f"{prefix}{slot}/"), last, f"{slot}/")
    for slot in ("v_row", "v_col", "v")
  }
  unused = StoredArray((1,), FLOAT, functools.partial(np.zeros, (1,), FLOAT))
  states: _Arrays = {}
  for slot, arrays in slots.items():
    for name, array in arrays.items():
      if swaps_factors(name, parameters[name].shape):
        slot_there = {"v_row": "v_col", "v_col": "v_row"}.get(slot, slot)
      else:
        slot_there = slot
      used = array.shape[-1:] != (1,) or array.shape == parameters[name].shape
      states[f"{PARAM_STATES}{name}/{slot_there}"] = array if used else unused
  states |= {f"{PARAM_STATES}{name}/m": unused for name in parameters}
  return states, ()
