# SPDX-License-Identifier: Apache-2.0
"""The text of a compiled program, as XLA prints it for CPU, GPU and TPU: what is in it, how often it runs."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

_COMMENT = re.compile(r"/\*.*?\*/")
_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_NAME = re.compile(r"%([\w.\-]+)")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\]")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_CALLED = re.compile(
  r"(?:calls|to_apply|called_computations|branch_computations|true_computation|false_computation)="
  r"(\{[^}]*\}|%[\w.\-]+)"
)
_LEVELS = 4  # of operands among which a name is looked for
_CALLS = ("fusion", "call", "conditional", "custom-call", "async-start")


class Instruction(NamedTuple):
  """One line of a computation.

  Attributes:
    name: unique in the program.
    type: of the result, with layout, e.g. "f32[8,128]{1,0}" or "(f32[8], s32[])".
    opcode: e.g. "all-reduce-start".
    inside: what stands between its parentheses: operands, or a constant's value.
    attributes: what follows.
  """

  name: str
  type: str
  opcode: str
  inside: str
  attributes: str

  @property
  def operands(self) -> list[str]:
    """Names of its operands."""
    return _NAME.findall(self.inside)

  @property
  def op_name(self) -> str:
    """JAX's name stack, e.g. "jit(train_step)/jvp(encoder)/dot_general"; "" of XLA's own."""
    found = _OP_NAME.search(self.attributes)
    return found[1] if found else ""

  def computation(self, role: str) -> str:
    """Returns the name of a loop's "body" or "condition"."""
    return re.search(rf"{role}=%([\w.\-]+)", self.attributes)[1]  # type: ignore[index]


class Computation(NamedTuple):
  """A function of the program: instructions by name, and the one that it returns."""

  instructions: dict[str, Instruction]
  root: str


class Program(NamedTuple):
  """Computations by name, each before those that call it, and the one that is the program."""

  computations: dict[str, Computation]
  entry: str


def parse(text: str) -> Program:
  """Reads a program's text."""
  computations: dict[str, Computation] = {}
  entry, name, root = "", "", ""
  instructions: dict[str, Instruction] = {}
  for line in text.splitlines():
    if header := _HEADER.match(line):
      name, root, instructions = header[2], "", {}
      entry = name if header[1] else entry
    elif line.startswith("}"):
      computations[name] = Computation(instructions, root)
    elif found := _INSTRUCTION.match(_COMMENT.sub("", line)):
      inside, attributes = _balanced(found[5])
      instructions[found[2]] = Instruction(found[2], found[3], found[4], inside, attributes)
      root = found[2] if found[1] else root
  return Program(computations, entry)


def _balanced(text: str) -> tuple[str, str]:
  """Splits what follows an opening parenthesis at the closing one."""
  end = text.find(")")
  while text.count("(", 0, end) > text.count(")", 0, end):  # of a layout within
    end = text.find(")", end + 1)
  return text[:end], text[end + 1 :]


def arrays(type_: str) -> list[tuple[tuple[int, ...], int]]:
  """Returns shape and bytes of each array in a type, padding of layouts left out."""
  found = []
  for dtype, dimensions in _ARRAY.findall(type_):
    shape = tuple(int(n) for n in dimensions.split(",") if n)
    width = re.search(r"\d+", dtype)
    bits = 8 if dtype == "pred" else int(width[0]) if width else 0  # a token has none
    found.append((shape, math.ceil(math.prod(shape) * bits / 8)))
  return found


def size(type_: str) -> int:
  """Returns the bytes of all arrays in a type."""
  return sum(bytes_ for _, bytes_ in arrays(type_))


def op_name(computation: Computation, instruction: Instruction) -> str:
  """Returns JAX's name of an instruction, else of what it is made of, else ""."""
  level = [instruction]
  for _ in range(_LEVELS):
    for candidate in level:
      if candidate.op_name:
        return candidate.op_name
    names = [name for candidate in level for name in candidate.operands]
    level = [computation.instructions[n] for n in names if n in computation.instructions]
  return ""


def _common_scope(computation: Computation) -> str:
  """Returns the scope of most instructions, e.g. "jit(step)/jvp(encoder)/while"."""
  names = [instruction.op_name for instruction in computation.instructions.values()]
  scopes = Counter(name.rpartition("/body/")[0] for name in names if name)
  return scopes.most_common(1)[0][0] if scopes else ""


class Place(NamedTuple):
  """How a computation is run.

  Attributes:
    times: how often in a program's run; all branches of a conditional are counted.
    op_name: of what calls it, or of what calls that.
  """

  times: int
  op_name: str


def places(program: Program) -> dict[str, Place]:
  """Returns how often each computation runs that runs at all."""
  found = {program.entry: Place(1, "")}
  for name in reversed(program.computations):  # those that call before those that are called
    if name not in found:
      continue
    times, outer = found[name]
    computation = program.computations[name]
    for instruction in computation.instructions.values():
      for called, trips in _called(program, name, instruction):
        before = found[called].times if called in found else 0
        if instruction.opcode == "while":
          scope = instruction.op_name or _common_scope(program.computations[called])
        else:
          scope = op_name(computation, instruction)
        found[called] = Place(before + times * trips, scope or outer)
  return found


def _called(program: Program, name: str, instruction: Instruction) -> Iterator[tuple[str, int]]:
  """Yields what an instruction calls, and how often."""
  if instruction.opcode == "while":
    trips = trip_count(program, program.computations[name], instruction)
    yield instruction.computation("body"), trips
  elif instruction.opcode in _CALLS:
    for names in _CALLED.findall(instruction.attributes):
      for called in _NAME.findall(names):
        yield called, 1


def trip_count(program: Program, outer: Computation, loop: Instruction) -> int:
  """Returns how often a loop runs: as XLA says, else from its condition, a counter below a constant.

  A loop that ends earlier by its data is taken to run to the end.
  """
  if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
    return int(known[1])
  condition = program.computations[loop.computation("condition")]
  for instruction in condition.instructions.values():
    if instruction.opcode == "compare" and "direction=LT" in instruction.attributes:
      counter, end = instruction.operands
      start = _constant(condition, counter, outer, loop)
      stop = _constant(condition, end, outer, loop)
      if stop is not None:
        return max(1, stop - (start or 0))
  constants = [
    int(instruction.inside)
    for instruction in condition.instructions.values()
    if instruction.opcode == "constant" and instruction.inside.isdigit()
  ]
  return max(constants, default=1)


def _constant(
  computation: Computation, name: str, outer: Computation, loop: Instruction
) -> int | None:
  """Returns the number that `name` has when the loop starts, if the text says so."""
  instruction = computation.instructions[name]
  if instruction.opcode == "constant":
    return int(instruction.inside) if re.fullmatch(r"-?\d+", instruction.inside) else None
  if instruction.opcode in ("copy", "bitcast", "copy-done", "copy-start"):
    return _constant(computation, instruction.operands[0], outer, loop)
  if instruction.opcode == "get-tuple-element" and computation is not outer:
    state = outer.instructions[loop.operands[0]]
    if state.opcode == "tuple":
      index = int(re.search(r"index=(\d+)", instruction.attributes)[1])  # type: ignore[index]
      return _constant(outer, state.operands[index], outer, loop)
  return None
