# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of any format, seen in one way: arrays by T5X's names, each read when asked for.

T5X's names are those of its state dict, with `/` between the parts:

- `target/encoder/layers_3/mlp/wi/kernel`: a parameter. Layers are numbered, nothing is stacked but
  experts, kernels are [in, out] (`names` has the whole table);
- `state/param_states/encoder/layers_3/mlp/wi/kernel/v_row`: Adafactor's state of it (m, v, v_row,
  v_col; what a parameter does not use is a zero of shape (1,));
- `state/step`.

A format without optimizer state has the first kind only. Opening a checkpoint reads what describes
it, never the arrays; whatever is wrong with that is an error then.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from switch_t5.interop import untrusted
from switch_t5.storage.location import Location

PARAMETERS = "target/"
PARAM_STATES = "state/param_states/"
STEP = "state/step"
SLOTS = ("m", "v", "v_row", "v_col")
_MAX_STEP = (1 << 31) - 1  # steps are int32

# Told of each array that is done: its name and its bytes.
Progress = Callable[[str, int], None]


@dataclasses.dataclass(frozen=True)
class StoredArray:
  """An array that is not read yet.

  Attributes:
    shape: as stored.
    dtype: as stored; bfloat16 is ml_dtypes'.
    read: returns the whole array, C-contiguous, perhaps read-only. Raises CheckpointError, which
      names the array, if it cannot be read.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  read: Callable[[], np.ndarray]

  @property
  def nbytes(self) -> int:
    """Bytes of the array in memory."""
    return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

  def __str__(self) -> str:
    return f"{self.dtype.name}[{','.join(map(str, self.shape))}]"


@dataclasses.dataclass(frozen=True)
class StackedArray:
  """An array made of others, which are read one by one.

  Attributes:
    shape: of the whole.
    pieces: the slices along its first axis, or the one array that it is.
    is_stacked: which of the two.
  """

  shape: tuple[int, ...]
  pieces: tuple[StoredArray, ...]
  is_stacked: bool

  @property
  def dtype(self) -> np.dtype:
    """That of the pieces."""
    return self.pieces[0].dtype

  def slices(self) -> Iterator[tuple[Any, np.ndarray]]:
    """Yields the array in parts, one in memory at a time: an index of it and what stands there."""
    for i, piece in enumerate(self.pieces):
      yield (i if self.is_stacked else ...), piece.read()

  def read(self) -> np.ndarray:
    """Returns the whole array."""
    array = np.empty(self.shape, self.dtype)
    for index, piece in self.slices():
      array[index] = piece
    return array


class LastRead:
  """Remembers the array that was read last: its slices are asked for one after the other."""

  def __init__(self) -> None:
    self._name = ""
    self._array: np.ndarray | None = None

  def read(self, name: str, array: StoredArray) -> np.ndarray:
    """Returns the array of that name, read unless it was the last one."""
    if self._array is None or name != self._name:
      self._array = None  # not two at a time
      self._name, self._array = name, array.read()
    return self._array


@dataclasses.dataclass(frozen=True)
class StoredCheckpoint:
  """An open checkpoint.

  Attributes:
    path: its folder or file.
    format: what it is, for the user: "T5X, native".
    arrays: by T5X's names, in an order in which reading them is cheap.
    notes: what the user should know of it, a line each: what was left aside.
    tokenizer: its SentencePiece model, if it came with one.
  """

  path: Location
  format: str
  arrays: Mapping[str, StoredArray]
  notes: tuple[str, ...] = ()
  tokenizer: Location | None = None

  def parameters(self) -> dict[str, StoredArray]:
    """Returns the parameters, without `target/`."""
    return {
      name.removeprefix(PARAMETERS): array
      for name, array in self.arrays.items()
      if name.startswith(PARAMETERS)
    }

  def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
    """Returns the parameters' shapes, by names without `target/`."""
    return {name: array.shape for name, array in self.parameters().items()}

  @property
  def step(self) -> int:
    """The training step; 0 where the format has none. Raises CheckpointError if it is no number of steps."""
    stored = self.arrays.get(STEP)
    if stored is None:
      return 0
    if stored.shape or stored.dtype.kind not in "iu":
      raise untrusted.refuse(f"{self.path}: {STEP}", str(stored), rule="one whole number")
    step = int(stored.read())
    if not 0 <= step <= _MAX_STEP:
      raise untrusted.refuse(f"{self.path}: {STEP}", f"{step}", rule=f"0 to {_MAX_STEP:,}")
    return step


def check_kinds(checkpoint: StoredCheckpoint) -> None:
  """Raises CheckpointError if an array cannot be what its name says, or has a name that nobody could read.

  Parameters and second moments are floats. A parameter has a second moment v of its shape, or v_row and
  v_col of its shape without one axis; what it does not use has shape (1,).
  """
  parameters = checkpoint.parameters()
  for name, array in checkpoint.arrays.items():
    if not name.isprintable():
      raise untrusted.refuse(checkpoint.path, f"the name {name!a}", rule="names are printable")
    is_float = array.dtype.name in untrusted.FLOATS
    if not is_float and (name.startswith(PARAMETERS) or name.rpartition("/")[2] in SLOTS):
      raise untrusted.refuse(
        f"{checkpoint.path}: {name}", str(array), rule=f"one of {', '.join(untrusted.FLOATS)}"
      )
  for name, parameter in parameters.items():
    slots = {slot: checkpoint.arrays.get(f"{PARAM_STATES}{name}/{slot}") for slot in SLOTS}
    _check_slots(f"{checkpoint.path}: {PARAM_STATES}{name}", parameter, slots)


def _check_slots(
  where: str, parameter: StoredArray, slots: Mapping[str, StoredArray | None]
) -> None:
  """Raises CheckpointError if what is there of Adafactor's state is not that of a parameter."""
  unused, whole = (1,), parameter.shape
  factors = [whole[:i] + whole[i + 1 :] for i in range(len(whole))] if len(whole) > 1 else []
  for slot, array in slots.items():
    allowed = (unused, *(factors if slot in ("v_row", "v_col") else [whole]))
    if array is not None and array.shape not in allowed:
      raise untrusted.refuse(
        f"{where}/{slot}",
        f"{array} of the parameter {parameter}",
        rule=" or ".join(str(list(shape)) for shape in allowed),
      )
  v, v_row, v_col = (slots[slot] for slot in ("v", "v_row", "v_col"))
  if v is None or v_row is None or v_col is None or whole == unused:
    return
  if len({v.shape == unused, v_row.shape != unused, v_col.shape != unused}) > 1:
    raise untrusted.refuse(
      where,
      f"v {v}, v_row {v_row}, v_col {v_col}",
      rule="v is used, or v_row and v_col are; what is not has shape (1,)",
    )
