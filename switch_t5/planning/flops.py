# SPDX-License-Identifier: Apache-2.0
"""Matmul FLOPs of one device, counted in the traced step itself."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal


def count(traced: jax.stages.Traced, num_devices: int, *, loop_trips: int = 1) -> dict[str, float]:
  """Returns the FLOPs of one device by the dtype of the operands, e.g. {"bfloat16": 1e12}.

  Two for each product that a matmul sums. What stands outside the manual regions (`shard_map`) is
  global, and each device does its part of it; what stands inside is one device's. Recomputation,
  empty places of experts, and of a ragged matmul all rows that there is room for are counted. Of
  branches the costliest counts; of those for a platform, the one that is not the CPU's. Where the
  operands are of two types it is the wider one.

  Args:
    traced: a traced program.
    num_devices: of its mesh.
    loop_trips: of loops whose length is not in the program: decoding's, at most the positions.
  """
  program = traced.jaxpr.jaxpr
  found = _walk(program, [True] * len(program.outvars), 1.0 / num_devices, loop_trips)
  return {dtype: flops for dtype, flops in found.items() if flops}


def _walk(jaxpr: Jaxpr, wanted: list[bool], part: float, trips: int) -> Counter[str]:
  """Returns the FLOPs of a program of which each device does `part`.

  XLA drops what the wanted results do not need; so does this, from the last equation to the first.
  """
  found: Counter[str] = Counter()
  results = zip(jaxpr.outvars, wanted, strict=True)
  needed = {var for var, is_wanted in results if is_wanted and not isinstance(var, Literal)}
  for equation in reversed(jaxpr.eqns):
    live = [var in needed for var in equation.outvars]
    if any(live) or equation.effects:
      needed.update(var for var in equation.invars if not isinstance(var, Literal))
      found.update(_of_equation(equation, live, part, trips))
  return found


def _of_equation(equation: Any, live: list[bool], part: float, trips: int) -> Counter[str]:
  name, params = equation.primitive.name, equation.params
  if name in _MATMULS:
    dtypes = (var.aval.dtype for var in equation.invars[:2])
    widest = max(dtypes, key=lambda dtype: dtype.itemsize)
    return Counter({str(widest): part * _MATMULS[name](equation)})
  if name == "cond":
    branches = [_walk(branch.jaxpr, live, part, trips) for branch in params["branches"]]
    return branches[-1] if params.get("branches_platforms") else max(branches, key=Counter.total)
  times = {"scan": params.get("length"), "while": trips}.get(name, 1)
  found: Counter[str] = Counter()
  for program in _programs(params):
    wanted = [True] * len(program.outvars)
    if name != "while" and len(wanted) == len(live):
      pairs: Any = zip(program.outvars, equation.outvars, live, strict=True)
      # What a scan carries, and does not stack, may be needed by the next round.
      wanted = [
        is_live or (name == "scan" and inner.aval.ndim == outer.aval.ndim)
        for inner, outer, is_live in pairs
      ]
    body = _walk(program, wanted, 1.0 if name == "shard_map" else part, trips)
    found.update({dtype: times * flops for dtype, flops in body.items()})
  return found


def _programs(params: dict[str, Any]) -> list[Jaxpr]:
  """Returns the programs that an equation runs."""
  return [
    value.jaxpr if isinstance(value, ClosedJaxpr) else value
    for value in params.values()
    if isinstance(value, ClosedJaxpr | Jaxpr)
  ]


def _dot(equation: Any) -> float:
  (contracting, _), (batch, _) = equation.params["dimension_numbers"]
  return _products(equation, (*contracting, *batch))


def _ragged_dot(equation: Any) -> float:
  numbers = equation.params["ragged_dot_dimension_numbers"]
  (contracting, _), (batch, _) = numbers.dot_dimension_numbers
  # A row meets the kernel of its own group alone.
  groups = math.prod(equation.invars[1].aval.shape[i] for i in numbers.rhs_group_dimensions)
  return _products(equation, (*contracting, *batch)) / groups


def _products(equation: Any, shared: tuple[int, ...]) -> float:
  """Returns two FLOPs for each product; `shared` are the left operand's axes that both have."""
  left, right = (var.aval for var in equation.invars[:2])
  both = math.prod(left.shape[i] for i in shared)
  return 2.0 * (left.size // both) * right.size if both else 0.0


def _convolution(equation: Any) -> float:
  kernel, features = equation.invars[1].aval, equation.params["dimension_numbers"].rhs_spec[0]
  return 2.0 * equation.outvars[0].aval.size * kernel.size / kernel.shape[features]


_MATMULS = {
  "dot_general": _dot,
  "ragged_dot_general": _ragged_dot,
  "conv_general_dilated": _convolution,
}
