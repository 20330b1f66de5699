# SPDX-License-Identifier: Apache-2.0
"""The shapes that T5X's Adafactor keeps for a parameter: for checkpoints that are made up."""

from __future__ import annotations

from switch_t5.interop.checkpoint import SLOTS
from switch_t5.interop.names import find_t5x

Shape = tuple[int, ...]
UNUSED = (1,)


def adafactor_slots(name: str, shape: Shape) -> dict[str, Shape]:
  """Returns the shapes of m, v, v_row and v_col; UNUSED of those that the parameter does not use.

  Second moments are factored as T5X does it: of experts always, of others from 128 on.

  Args:
    name: of the parameter, in T5X.
    shape: of the parameter.
  """
  slots: dict[str, Shape] = dict.fromkeys(SLOTS, UNUSED)
  found = find_t5x(name)
  if found and found.row.shape.startswith("E"):
    sizes = dict(zip(found.row.shape, shape, strict=True))
    return slots | {"v_row": (sizes["E"], sizes["d"]), "v_col": (sizes["E"], sizes["f"])}
  if len(shape) == 2 and min(shape) >= 128:
    return slots | {"v_row": (min(shape),), "v_col": (max(shape),)}
  return slots | {"v": shape}
