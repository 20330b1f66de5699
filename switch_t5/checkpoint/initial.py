# SPDX-License-Identifier: Apache-2.0
"""A new run's first parameters, taken from another run's checkpoint: all of them, or some; or all
of its state, with the optimizer's and the step.

Which array goes where is said as T5X says it, by an assignment map: pairs of a regular expression,
which must match the whole name of a parameter of the new run's model, and the name in the
checkpoint, in which \\1 stands for the first group; None leaves the parameter as it was drawn. The
first pair that matches a name counts; a name that none matches is looked for in the checkpoint.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import orbax.checkpoint as ocp

from switch_t5.checkpoint import tree
from switch_t5.checkpoint.commit import RestoreState, StateHandler
from switch_t5.checkpoint.listing import good_manifest
from switch_t5.checkpoint.manifest import find_problems
from switch_t5.errors import CheckpointError, ConfigError
from switch_t5.storage.location import Location
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


class ParameterSource(Protocol):
  """A checkpoint that parameters are taken from, whatever its format."""

  @property
  def path(self) -> Location:
    """Of the checkpoint."""
    ...

  @property
  def format(self) -> str:
    """What it is, for the user."""
    ...

  @property
  def types(self) -> Mapping[str, str]:
    """`tree.array_types` of its parameters by our names, e.g. `encoder/blocks/layers_0/...`."""
    ...

  def load(self, like: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns the parameters of these names, each with the sharding of the array given for it."""
    ...


class SavedParameters:
  """The parameters of a checkpoint of ours, verified: a `ParameterSource`.

  Args:
    path: `.../checkpoint_<step>`.

  Raises:
    CheckpointError: if it is damaged.
  """

  format = "switch_t5"

  def __init__(self, path: Location):
    self.path = path
    saved = good_manifest(path, find_problems(path, None)).state
    self.types = {
      name.removeprefix(_PARAMS): kind for name, kind in saved.items() if name.startswith(_PARAMS)
    }

  def load(self, like: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Each process and device reads its own shards."""
    paths = {name: tuple(f"{_PARAMS}{name}".split("/")) for name in like}
    restored = _restore(self.path, {path: like[name] for name, path in paths.items()})
    return {name: restored[path] for name, path in paths.items()}


class SavedState:
  """The state of a checkpoint of ours, verified, for a new run that goes on with all of it.

  Attributes:
    path: of the checkpoint.
    step: at which it was saved.

  Args:
    path: `.../checkpoint_<step>`.
    abstract: the new run's state, jax.ShapeDtypeStruct with sharding for every leaf.

  Raises:
    CheckpointError: if it is damaged, or has other arrays than the new run.
  """

  def __init__(self, path: Location, abstract: PyTree):
    self.path, self._abstract = path, abstract
    manifest = good_manifest(path, find_problems(path, None))
    self.step = manifest.step
    tree.check_same_arrays(
      manifest.state,
      tree.array_types(tree.leaves_by_path(abstract)),
      str(path),
      remedy="InitialCheckpoint.restore_optimizer = False takes the parameters alone; or train with "
      "the model and the optimizer of the checkpoint (config.gin beside it)",
    )

  def load(self) -> PyTree:
    """Returns the state, laid out as the new run's; each process and device reads its own shards."""
    leaves = tree.leaves_by_path(self._abstract)
    restored = _restore(self.path, leaves)
    structure = jax.tree.structure(self._abstract)
    return jax.tree.unflatten(structure, [restored[name] for name in leaves])


def _restore(path: Location, like: dict[tuple[str, ...], Any]) -> dict[tuple[str, ...], Any]:
  """Returns the arrays at some paths of a checkpoint, with the shardings of those given."""
  item = tree.nested(like)
  restore_args = ocp.checkpoint_utils.construct_restore_args(item)
  arguments = RestoreState(item=item, restore_args=restore_args, partial_restore=True)
  # The manifest has said that it is whole: Orbax is not to look for a mark of its own on gs://.
  finished = ocp.path.atomicity.AtomicRenameTemporaryPath
  with ocp.Checkpointer(StateHandler(), temporary_path_class=finished) as checkpointer:
    return tree.leaves_by_path(checkpointer.restore(path, args=arguments))


class InitialParameters:
  """Which of a checkpoint's arrays become which parameters.

  Args:
    source: the checkpoint.
    shapes: the parameters' nested dict of jax.ShapeDtypeStruct.
    assignment_map: see the module.

  Raises:
    CheckpointError: if an array is not there, or if one has another shape.
    ConfigError: if an entry of the map is none, or no parameter matches it.
  """

  def __init__(self, source: ParameterSource, shapes: PyTree, assignment_map: AssignmentMap = ()):
    self._source = source
    wanted = tree.array_types(tree.leaves_by_path(shapes))
    self.assignments = assign(list(wanted), assignment_map)
    _check_types(self.assignments, wanted, source.types, source.path)

  def load(self, params: PyTree) -> PyTree:
    """Returns `params` with what the checkpoint gives in place; each in its own sharding.

    Args:
      params: arrays; where the checkpoint gives all of them, jax.ShapeDtypeStruct with shardings do.
    """
    leaves = tree.leaves_by_path(params)
    targets = {a: tuple(a.name.split("/")) for a in self.assignments if a.source is not None}
    found = self._source.load({str(a.source): leaves[path] for a, path in targets.items()})
    for assignment, path in targets.items():
      leaves[path] = jax.device_put(found[str(assignment.source)], leaves[path].sharding)
    return jax.tree.unflatten(jax.tree.structure(params), leaves.values())

  def describe(self) -> str:
    """Returns how many parameters come from where, and those that do not come by their own name."""
    taken = [a for a in self.assignments if a.source is not None]
    lines = [
      f"{len(taken)} of {len(self.assignments)} parameters are taken from "
      f"{self._source.path} ({self._source.format})."
    ]
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


def _check_types(
  assignments: Sequence[Assignment],
  wanted: Mapping[str, str],
  saved: Mapping[str, str],
  path: Location,
) -> None:
  lines = []
  for name, source, _ in assignments:
    if source is None:
      continue
    found = saved.get(source)
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
