# SPDX-License-Identifier: Apache-2.0
"""A new run's first parameters, taken from another run's checkpoint: all of them, or some.

Which array goes where is said as T5X says it, by an assignment map: pairs of a regular expression,
which must match the whole name of a parameter of the new run's model, and the name in the
checkpoint, in which \\1 stands for the first group; None leaves the parameter as it was drawn. The
first pair that matches a name counts; a name that none matches is looked for in the checkpoint.
"""

from __future__ import annotations

import difflib
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import orbax.checkpoint as ocp

from switch_t5.checkpoint import tree
from switch_t5.checkpoint.commit import RestoreState, StateHandler
from switch_t5.checkpoint.manifest import Manifest, find_problems, read_manifest
from switch_t5.errors import CheckpointError, ConfigError
from switch_t5.types import PyTree

AssignmentMap = Sequence[tuple[str, str | None]]
_PARAMS = "params/"


class Assignment(NamedTuple):
  """Where a parameter comes from.

  Attributes:
    name: of the parameter, e.g. `encoder/blocks/layers_0/mlp/wi/kernel`.
    source: its name in the checkpoint; None if it is drawn anew.
    rule: the regular expression that said so; None for the same name.
  """

  name: str
  source: str | None
  rule: str | None


class InitialParameters:
  """A verified checkpoint, and which of its arrays become which parameters.

  Args:
    path: of the checkpoint, `.../checkpoint_<step>`.
    shapes: the parameters' nested dict of jax.ShapeDtypeStruct.
    assignment_map: see the module.

  Raises:
    CheckpointError: if there is no checkpoint or it is damaged, if an array is not there, or if one
      has another shape.
    ConfigError: if an entry of the map is none, or no parameter matches it.
  """

  def __init__(self, path: str, shapes: PyTree, assignment_map: AssignmentMap = ()):
    self.path = pathlib.Path(path).absolute()
    saved = _verified(self.path).state
    wanted = tree.array_types(tree.leaves_by_path(shapes))
    self.assignments = assign(list(wanted), assignment_map)
    _check_types(self.assignments, wanted, saved, self.path)

  def load(self, params: PyTree) -> PyTree:
    """Returns `params` with what the checkpoint gives in place; each in its own sharding."""
    leaves = tree.leaves_by_path(params)
    sources = {
      a.source: leaves[tuple(a.name.split("/"))] for a in self.assignments if a.source is not None
    }
    item = tree.nested({tuple(f"{_PARAMS}{name}".split("/")): x for name, x in sources.items()})
    restore_args = ocp.checkpoint_utils.construct_restore_args(item)
    arguments = RestoreState(item=item, restore_args=restore_args, partial_restore=True)
    with ocp.Checkpointer(StateHandler()) as checkpointer:
      restored = tree.leaves_by_path(checkpointer.restore(self.path, args=arguments))
    for assignment in self.assignments:
      if assignment.source is not None:
        path = tuple(assignment.name.split("/"))
        array = restored[tuple(f"{_PARAMS}{assignment.source}".split("/"))]
        leaves[path] = jax.device_put(array, leaves[path].sharding)
    return jax.tree.unflatten(jax.tree.structure(params), leaves.values())

  def describe(self) -> str:
    """Returns how many parameters come from where, and those that do not come by their own name."""
    taken = [a for a in self.assignments if a.source is not None]
    lines = [f"{len(taken)} of {len(self.assignments)} parameters are taken from {self.path}."]
    moved = [a for a in self.assignments if a.rule is not None]
    lines += [f"  {a.name} <- {a.source or 'drawn anew'}  ({a.rule})" for a in moved]
    return "\n".join(lines)


def assign(names: Sequence[str], assignment_map: AssignmentMap) -> list[Assignment]:
  """Returns where each parameter comes from, by the names alone."""
  rules = [_compile(entry) for entry in assignment_map]
  used: set[str] = set()

  def assignment(name: str) -> Assignment:
    for pattern, replacement in rules:
      if match := pattern.fullmatch(name):
        used.add(pattern.pattern)
        source = None if replacement is None else match.expand(replacement)
        return Assignment(name, source, pattern.pattern)
    return Assignment(name, name, None)

  assignments = [assignment(name) for name in names]
  for pattern, _ in rules:
    if pattern.pattern not in used:
      raise ConfigError(
        "An entry of assignment_map matches nothing.",
        value=pattern.pattern,
        rule="its first part matches the whole name of a parameter of this run's model that no "
        "entry before it matches",
        remedy="a name like "
        + difflib.get_close_matches(pattern.pattern, names, n=1, cutoff=0.0)[0],
      )
  return assignments


def _compile(entry: tuple[str, str | None]) -> tuple[re.Pattern[str], str | None]:
  rule = "pairs of a regular expression and a name in the checkpoint, or None"
  try:
    pattern, replacement = entry
    return re.compile(pattern), replacement
  except (TypeError, ValueError, re.error) as error:
    raise ConfigError(
      "An entry of assignment_map is not valid.", value=f"{entry!r}: {error}", rule=rule
    ) from error


def _verified(path: pathlib.Path) -> Manifest:
  """Returns the manifest of a good checkpoint."""
  if not path.is_dir():
    raise CheckpointError(
      "There is no checkpoint at INITIAL_CHECKPOINT_PATH.",
      value=path,
      rule="the folder of one checkpoint: <MODEL_DIR>/checkpoints/checkpoint_<step>",
    )
  found, problems = read_manifest(path), find_problems(path, None)
  if not isinstance(found, Manifest) or problems:
    raise CheckpointError(
      "The checkpoint at INITIAL_CHECKPOINT_PATH is damaged, or is none of ours.",
      value=f"{path}: {'; '.join(str(problem) for problem in problems[:3])}",
      rule="every file of a checkpoint is as its manifest says",
    )
  return found


def _check_types(
  assignments: Sequence[Assignment],
  wanted: Mapping[str, str],
  saved: Mapping[str, str],
  path: pathlib.Path,
) -> None:
  lines = []
  for name, source, _ in assignments:
    if source is None:
      continue
    found = saved.get(f"{_PARAMS}{source}")
    if found is None:
      lines.append(f"+ {name}  {wanted[name]}: the checkpoint has no {source}")
    elif found != wanted[name]:
      lines.append(f"~ {name}  {found} -> {wanted[name]}")
  if not lines:
    return
  raise CheckpointError(
    "The checkpoint does not hold this model's parameters "
    "(+ only in this run, ~ checkpoint -> this run):\n  " + tree.indented(lines),
    value=path,
    rule="every parameter has its array in the checkpoint, with the same shape and dtype, or an "
    "entry in assignment_map",
    remedy="InitialCheckpoint.assignment_map = [(r'NAME IN THE MODEL', 'name in the checkpoint')], "
    "or None in place of the second for a parameter that is drawn anew",
  )
