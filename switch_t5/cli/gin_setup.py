# SPDX-License-Identifier: Apache-2.0
"""Loads gin files and bindings into a checked `Configuration`.

Every name is held against an explicit list of configurables before anything is called, so a
configuration cannot run code, and a mistake is named with its file and line:

- selectors, parameters and references that are not on the list;
- macros that nothing uses (a misspelt definition) and macros that nothing defines (a misspelt use);
- bindings in a scope that no reference names, which would have no effect;
- values that were left at `%gin.REQUIRED`;
- macros and references that lead back to themselves.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from switch_t5.cli import t5x_names
from switch_t5.cli.configuration import Configuration, Node, parameters
from switch_t5.cli.flags import CommandLine
from switch_t5.cli.gin_walk import (
  COMMAND_LINE,
  Macro,
  Reference,
  Statement,
  contents,
  scoped,
  walk_binding,
  walk_file,
)
from switch_t5.errors import ConfigError, suggest

REQUIRED = ("gin.REQUIRED", "REQUIRED")  # as macros: %gin.REQUIRED

_EXAMPLES = {
  "BATCH_SIZE": "128",
  "DROPOUT_RATE": "0.1",
  "MESH_SHAPE": '"(8, 1, 1)"',
  "MIXTURE_OR_TASK_NAME": "\"'embedded_span_corruption'\"",
  "MODEL_DIR": "\"'runs/first'\"",
  "TASK_FEATURE_LENGTHS": "\"{'inputs': 512, 'targets': 114}\"",
  "TEXT_FILES": "\"'my/*.txt'\"",
  "TRAIN_STEPS": "10000",
}


def load(
  files: Sequence[str],
  bindings: Sequence[str],
  search_paths: Sequence[str],
  configurables: Mapping[str, Callable[..., Any]],
  root: str | None = None,
  unneeded: Mapping[str, Any] = MappingProxyType({}),
) -> Configuration:
  """Returns the configuration of files and bindings; later ones win, bindings over files.

  Args:
    files: gin files, as they stand or looked up in the search paths and in `switch_t5.configs`.
    bindings: `NAME = VALUE` or `selector.parameter = VALUE`, from the command line.
    search_paths: folders before the current one and `switch_t5.configs`.
    configurables: all that a configuration may name.
    root: what will be called: what it does not refer to may be left at REQUIRED. None: anything may.
    unneeded: macros that may be left at REQUIRED, and what they are then.

  Raises:
    ConfigError: what is wrong, where, and what to change.
  """
  try:
    folders = [*map(Path, search_paths), Path(), packaged_configs()]
    return _load(files, bindings, folders, configurables, root, unneeded)
  except RecursionError:
    raise ConfigError("The configuration is nested too deeply.", value=", ".join(files)) from None


def _load(
  files: Sequence[str],
  bindings: Sequence[str],
  folders: Sequence[Path],
  configurables: Mapping[str, Callable[..., Any]],
  root: str | None,
  unneeded: Mapping[str, Any],
) -> Configuration:
  statements = [statement for name in files for statement in walk_file(name, folders)]
  statements += [statement for text in bindings for statement in walk_binding(text)]
  statements = [
    dataclasses.replace(statement, value=unneeded[statement.selector])
    if statement.selector in unneeded and set(_macros_in(statement.value)) & set(REQUIRED)
    else statement
    for statement in statements
  ]
  macros = {s.selector: s for s in statements if _is_macro(s)}
  bound = {s.key: s for s in statements if not _is_macro(s)}
  for statement in statements:
    _check_names(statement, configurables)
  _check_scopes(statements)
  _check_macros(statements, macros, bound)
  values: dict[Node, dict[str, Any]] = {}
  for statement in bound.values():
    node = (statement.scope, statement.selector)
    values.setdefault(node, {})[str(statement.parameter)] = statement.value
  configuration = Configuration(
    configurables, values, {name: statement.value for name, statement in macros.items()}
  )
  _check_cycles(configuration, values)
  called = configuration.selectors(root) if root else {s.selector for s in bound.values()}
  _check_required(macros, [s for s in bound.values() if s.selector in called])
  return configuration


def load_command_line(
  command_line: CommandLine,
  configurables: Mapping[str, Callable[..., Any]],
  root: str | None = None,
  unneeded: Mapping[str, Any] = MappingProxyType({}),
) -> Configuration:
  """Returns the configuration that a command line names; see `load`."""
  return load(
    command_line.gin_files,
    command_line.gin_bindings,
    command_line.gin_search_paths,
    configurables,
    root,
    unneeded,
  )


def packaged_configs() -> Path:
  """Returns the folder of the gin files that come with switch_t5."""
  return Path(str(importlib.resources.files("switch_t5.configs")))


def _is_macro(statement: Statement) -> bool:
  return statement.parameter is None


def _check_names(statement: Statement, configurables: Mapping[str, Callable[..., Any]]) -> None:
  """Refuses selectors, parameters and references that are not on the list."""
  place, selector = statement.place, statement.selector
  if _is_macro(statement):
    if statement.scope or "." in selector:
      raise ConfigError(
        f"{place}: a macro has a plain name.", value=statement.key, remedy="Write NAME = VALUE."
      )
  elif selector not in configurables:
    raise ConfigError(
      f"{place}: gin may not configure this name.",
      value=selector,
      remedy=t5x_names.selector_remedy(selector, configurables),
    )
  else:
    known = parameters(configurables[selector])
    kinds = [p.kind for p in inspect.signature(configurables[selector]).parameters.values()]
    if statement.parameter not in known and inspect.Parameter.VAR_KEYWORD not in kinds:
      raise ConfigError(
        f"{place}: {selector} has no such parameter.",
        value=statement.key,
        remedy=suggest(str(statement.parameter), known),
      )
  for item in contents(statement.value):
    if isinstance(item, Reference) and item.selector not in configurables:
      raise ConfigError(
        f"{place}: gin may not refer to this name.",
        value=f"{statement.key} = {item}",
        remedy=t5x_names.selector_remedy(item.selector, configurables),
      )


def _check_scopes(statements: Sequence[Statement]) -> None:
  """Refuses bindings in a scope that no reference names, such as T5X's `train/DatasetConfig`."""
  items = [item for statement in statements for item in contents(statement.value)]
  named = [f"{item.scope}/" for item in items if isinstance(item, Reference)]
  for statement in statements:
    if statement.scope and not any(n.startswith(f"{statement.scope}/") for n in named):
      raise ConfigError(
        f"{statement.place}: no reference names this scope.",
        value=statement.key,
        rule="a binding of scope/selector holds where @scope/selector is evaluated",
        remedy=f"Write {statement.selector}.{statement.parameter}, without the scope.",
      )


def _check_macros(
  statements: Sequence[Statement],
  macros: Mapping[str, Statement],
  bound: Mapping[str, Statement],
) -> None:
  """Refuses macros that are not defined, lead back to themselves, or that nothing uses.

  A file's macro may also be used by a line that a later one replaces; one of the command line must
  take effect.
  """
  for statement in statements:
    for name in _macros_in(statement.value):
      if name not in macros and name not in REQUIRED:
        others = macros.keys() - {statement.selector}
        raise ConfigError(
          f"{statement.place}: this macro is not defined.",
          value=f"{statement.key} = ... %{name}",
          remedy=suggest(name, others) if others else f"Define it: {name} = VALUE.",
        )
  _refuse_macro_cycles(macros)
  used = _used([s for s in statements if not _is_macro(s)], macros)
  effective = _used(list(bound.values()), macros)
  for name, statement in macros.items():
    on_command_line = statement.place.source == COMMAND_LINE
    if name not in (effective if on_command_line else used):
      candidates = (used | _used_names(statements)) - {name}
      raise ConfigError(
        f"{statement.place}: nothing uses this macro.",
        value=name,
        rule="a macro that is set must be used, as %NAME, by a parameter of the configuration",
        remedy=suggest(name, candidates) if candidates else "Remove it.",
      )


def _macros_in(value: Any) -> list[str]:
  return [item.name for item in contents(value) if isinstance(item, Macro)]


def _used_names(statements: Sequence[Statement]) -> set[str]:
  return {name for s in statements for name in _macros_in(s.value) if name not in REQUIRED}


def _used(statements: Sequence[Statement], macros: Mapping[str, Statement]) -> set[str]:
  """Returns the macros that statements use, directly or through other macros."""
  found: set[str] = set()
  waiting = [name for statement in statements for name in _macros_in(statement.value)]
  while waiting:
    name = waiting.pop()
    if name in macros and name not in found:
      found.add(name)
      waiting += _macros_in(macros[name].value)
  return found


def _refuse_macro_cycles(macros: Mapping[str, Statement]) -> None:
  finished: set[str] = set()

  def visit(name: str, path: tuple[str, ...]) -> None:
    if name in path:
      raise ConfigError(
        f"{macros[name].place}: a macro leads back to itself.",
        value=" -> ".join(f"%{step}" for step in (*path[path.index(name) :], name)),
        remedy="Give one of them a value.",
      )
    if name in macros and name not in finished:
      for inner in _macros_in(macros[name].value):
        visit(inner, (*path, name))
      finished.add(name)

  for name in macros:
    visit(name, ())


def _check_required(macros: Mapping[str, Statement], bound: Sequence[Statement]) -> None:
  """Refuses `%gin.REQUIRED` that is left, naming everything that must be set at once."""
  statements = [macros[name] for name in sorted(_used(list(bound), macros))]
  missing = [
    statement
    for statement in (*statements, *bound)
    if any(name in REQUIRED for name in _macros_in(statement.value))
  ]
  if missing:
    examples = " ".join(f"--gin.{s.key}={_EXAMPLES.get(s.key, 'VALUE')}" for s in missing)
    raise ConfigError(
      f"{_count(len(missing))} must be set.",
      value=", ".join(s.key for s in missing),
      rule=f"required by {', '.join(sorted({str(s.place) for s in missing}))}",
      remedy=f"Add, for instance: {examples}",
    )


def _count(number: int) -> str:
  return "A value" if number == 1 else f"{number} values"


def _check_cycles(configuration: Configuration, bound: Mapping[Node, Any]) -> None:
  """Refuses references that lead back to their own call."""
  finished: set[Node] = set()

  def visit(node: Node, path: tuple[Node, ...]) -> None:
    if node in path:
      circle = (*path[path.index(node) :], node)
      raise ConfigError(
        "A reference leads back to itself.",
        value=" -> ".join(f"@{scoped(*step)}" for step in circle),
        remedy="Remove one of these references.",
      )
    if node not in finished:
      for inner, _ in configuration.references(*node):
        visit(inner, (*path, node))
      finished.add(node)

  for node in bound:
    visit(node, ())
