# SPDX-License-Identifier: Apache-2.0
"""What crosses devices, read from a program's text after XLA has partitioned it."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

KINDS = ("all-to-all", "all-gather", "reduce-scatter", "all-reduce", "collective-permute")


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


def group_size(line: str) -> int:
  """Devices in each of a collective's groups; XLA has three ways to write them."""
  if mesh := re.search(r"replica_groups=mesh\[(.*?)\][^{]*\{(.*?)\}", line):
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh[1])}
    return math.prod(sizes[name] for name in re.findall(r"'(\w+)'", mesh[2]))
  if iota := re.search(r"replica_groups=\[\d+,(\d+)\]<=", line):
    return int(iota[1])
  return len(re.search(r"replica_groups=\{\{([\d,]*)\}", line)[1].split(","))


def collectives(program: str) -> list[Collective]:
  """Those among more than one device."""
  found = []
  for line in re.sub(r"/\*.*?\*/", "", program).splitlines():
    match = re.search(rf"= (.+?) ({'|'.join(KINDS)})(?:-start)?\(", line)
    if match and (devices := group_size(line)) > 1:
      results = re.findall(r"(\w+)\[([\d,]*)\]", match[1])
      shapes = [tuple(int(n) for n in shape.split(",") if n) for _, shape in results]
      found.append(Collective(match[2], devices, [dtype for dtype, _ in results], shapes))
  return found
