# SPDX-License-Identifier: Apache-2.0
"""What crosses devices, as arrays, from a program's text after XLA has partitioned it."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from switch_t5.planning import hlo
from switch_t5.planning.program import KINDS, written_groups

_DEVICES = 8


class Collective(NamedTuple):
  """One collective: its kind, how many devices take part, and its results on one device."""

  kind: str
  devices: int
  dtypes: list[str]
  shapes: list[tuple[int, ...]]

  @property
  def sizes(self) -> list[int]:
    """Elements of each result."""
    return [math.prod(shape) for shape in self.shapes]


def collectives(program: str) -> list[Collective]:
  """Those among more than one device."""
  found = []
  for computation in hlo.parse(program).computations.values():
    for instruction in computation.instructions.values():
      kind = instruction.opcode.removesuffix("-start")
      if kind in KINDS:
        devices = written_groups(instruction.attributes, _DEVICES).members.shape[1]
        shapes = [shape for shape, _ in hlo.arrays(instruction.type)]
        dtypes = re.findall(r"(\w+)\[", instruction.type)
        found.append(Collective(kind, devices, dtypes, shapes))
  return [collective for collective in found if collective.devices > 1]
