# SPDX-License-Identifier: Apache-2.0
"""Reads gin files as data, with gin's own parser and without gin's interpreter.

gin's interpreter imports any module that a file names, and can call anything that it finds there.
Here a file only becomes a list of statements, `NAME = VALUE` and `scope/selector.parameter = VALUE`,
whose values are Python literals, macros (`%NAME`) and references (`@scope/selector`, with `()` to
call it). Nothing is looked up or called; `gin_setup` decides what the names mean.
"""

from __future__ import annotations

import dataclasses
import io
import re
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gin import config_parser

from switch_t5.cli import t5x_names
from switch_t5.errors import ConfigError

COMMAND_LINE = "command line"


@dataclasses.dataclass(frozen=True)
class Place:
  """Where a statement stands: a file and line, or the command line (line 0)."""

  source: str
  line: int

  def __str__(self) -> str:
    return f"{self.source}:{self.line}" if self.line else self.source


@dataclasses.dataclass(frozen=True)
class Macro:
  """`%NAME`."""

  name: str

  def __str__(self) -> str:
    return f"%{self.name}"


@dataclasses.dataclass(frozen=True)
class Reference:
  """`@scope/selector`, or with `evaluate` `@scope/selector()`: the callable, or what it returns."""

  scope: str
  selector: str
  evaluate: bool

  def __str__(self) -> str:
    return f"@{scoped(self.scope, self.selector)}{'()' if self.evaluate else ''}"


@dataclasses.dataclass(frozen=True)
class Statement:
  """One line of a configuration. `parameter` is None where `selector` is a macro's name."""

  scope: str
  selector: str
  parameter: str | None
  value: Any
  place: Place

  @property
  def key(self) -> str:
    """The left-hand side, as it is written."""
    name = scoped(self.scope, self.selector)
    return f"{name}.{self.parameter}" if self.parameter else name


def scoped(scope: str, selector: str) -> str:
  """Returns `scope/selector`, or `selector` alone without a scope."""
  return f"{scope}/{selector}" if scope else selector


def contents(value: Any) -> Iterator[Macro | Reference]:
  """Yields the macros and references inside a value, containers included."""
  if isinstance(value, Macro | Reference):
    yield value
  elif isinstance(value, dict):
    for item in value.items():
      yield from contents(item)
  elif isinstance(value, list | tuple):
    for element in value:
      yield from contents(element)


def walk_binding(text: str) -> list[Statement]:
  """Returns the statements of one `NAME = VALUE` of the command line.

  Raises:
    ConfigError: if it is not a binding, or a string lacks its inner quotes.
  """
  statements = []
  for statement in _parse(text, COMMAND_LINE):
    if isinstance(statement, config_parser.IncludeStatement):
      raise ConfigError(
        "A file cannot be included from a binding.", value=text, remedy="Use --gin_file=FILE."
      )
    statements.extend(_statement(statement, Place(COMMAND_LINE, 0)))
  return statements


def walk_file(
  name: str, search_paths: Sequence[Path], including: tuple[Path, ...] = ()
) -> list[Statement]:
  """Returns the statements of a file, those of its includes in their place.

  Args:
    name: the file; an included one must lie inside the search paths, one that was named on the
      command line need not.
    search_paths: folders, first come first served.
    including: the files whose includes led here, outermost first.

  Raises:
    ConfigError: if a file is missing, unreadable, outside the search paths, includes itself, or
      holds anything but bindings and includes.
  """
  path = find_file(name, search_paths, anywhere=not including)
  if path in including:
    circle = " -> ".join(str(file) for file in (*including[including.index(path) :], path))
    raise ConfigError(
      "A gin file includes itself.", value=circle, remedy="Remove one of these includes."
    )
  statements = []
  for statement in _parse(_read(path), str(path)):
    place = Place(str(path), statement.location.line_num)
    if isinstance(statement, config_parser.IncludeStatement):
      t5x_names.refuse_include(statement.filename, str(place))
      try:
        statements.extend(walk_file(statement.filename, search_paths, (*including, path)))
      except MissingFileError as error:
        raise ConfigError(
          f"{place}: {error.what}", value=error.value, rule=error.rule, remedy=error.remedy
        ) from None
    else:
      statements.extend(_statement(statement, place))
  return statements


class MissingFileError(ConfigError):
  """A gin file that is in none of the search paths."""


def find_file(name: str, search_paths: Sequence[Path], *, anywhere: bool) -> Path:
  """Returns the resolved path of a gin file; `anywhere` allows it outside the search paths."""
  searched = ", ".join(str(folder) for folder in search_paths)
  outside = False
  for folder in search_paths:
    path = (folder / name).resolve()  # an absolute name stays as it is
    if path.is_file():
      if anywhere or path.is_relative_to(folder.resolve()):
        return path
      outside = True
  if outside:
    raise ConfigError(
      "An included gin file lies outside the search paths.",
      value=name,
      rule=f"includes stay inside {searched}",
      remedy="Add its folder with --gin_search_paths=FOLDER and include it by its name there.",
    )
  raise MissingFileError(
    "The gin file does not exist.",
    value=name,
    rule=f"looked up in {searched}",
    remedy=_similar_files(name, search_paths),
  )


def _similar_files(name: str, search_paths: Sequence[Path]) -> str:
  """Returns a remedy that names files with a similar path under the packaged configurations."""
  packaged = search_paths[-1]
  known = [str(path.relative_to(packaged)) for path in packaged.rglob("*.gin")]
  return t5x_names.suggest_close(name, known) or "Check the path, or add --gin_search_paths=FOLDER."


def _read(path: Path) -> str:
  try:
    return path.read_text(encoding="utf-8")
  except UnicodeDecodeError as error:
    raise ConfigError(
      "The gin file is not UTF-8 text.",
      value=f"{path}, byte {error.start}",
      remedy="Save it as UTF-8.",
    ) from None
  except OSError as error:
    raise ConfigError("The gin file cannot be read.", value=f"{path}: {error.strerror}") from None


class _Names(config_parser.ParserDelegate):
  """Makes plain names of what gin's own delegate looks up."""

  def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
    scope, _, selector = scoped_configurable_name.rpartition("/")
    return Reference(scope, selector, evaluate)

  def macro(self, macro_name: str) -> Macro:
    return Macro(macro_name)


def _parse(text: str, source: str) -> list[Any]:
  """Returns gin's statements, or an error that shows the line."""
  statements: list[Any] = []
  try:
    parser = config_parser.ConfigParser(io.StringIO(text), _Names())
    # Not by iteration: a StopIteration that the tokenizer raises inside a statement would end the
    # loop and silently drop that statement.
    while (statement := parser.parse_statement()) is not None:
      statements.append(statement)
  except (SyntaxError, tokenize.TokenError, StopIteration, TypeError, ValueError) as error:
    raise _syntax_error(text, source, error) from None
  return statements


def _syntax_error(text: str, source: str, error: Exception) -> ConfigError:
  line_number = _line_of(error)
  lines = text.splitlines()
  line = lines[line_number - 1].strip() if 0 < line_number <= len(lines) else text.strip()
  where = source if source == COMMAND_LINE else f"{source}:{line_number}"
  rule = (
    "NAME = VALUE or selector.parameter = VALUE, where VALUE is a Python literal, %NAME or @name()"
  )
  remedy = "Correct the line."
  assignment = re.fullmatch(r"\s*([\w./]+)\s*=\s*(.*?)\s*", line)
  if assignment and re.search(r"\bREQUIRED\b", assignment[2]):
    remedy = f"Write {assignment[1]} = %gin.REQUIRED"
  elif assignment and re.fullmatch(r"[\w./*:~-]+", assignment[2]):
    remedy = "A text needs quotes: " + _quoted(assignment[1], assignment[2], source)
  elif assignment and not assignment[2]:
    remedy = "Give it a value."
  shown = line if len(line) <= 100 else line[:97] + "..."
  return ConfigError(f"{where}: gin cannot read this line.", value=shown, rule=rule, remedy=remedy)


def _quoted(name: str, text: str, source: str) -> str:
  if source == COMMAND_LINE:
    return f"""--gin.{name}="'{text}'" (the shell takes the outer ones)."""
  return f"{name} = '{text}'"


def _line_of(error: Exception) -> int:
  """Returns the line that gin's or the tokenizer's error names, 1 if none."""
  for detail in reversed(error.args):
    if isinstance(detail, config_parser.Location):
      return detail.line_num
    if isinstance(detail, tuple) and detail and isinstance(detail[0], int):
      return detail[0]
    if isinstance(detail, tuple) and len(detail) > 1 and isinstance(detail[1], int):
      return detail[1]
  return 1


def _statement(statement: Any, place: Place) -> list[Statement]:
  """Converts gin's statement; an import is refused."""
  if isinstance(statement, config_parser.ImportStatement):
    raise t5x_names.import_error(statement.format(), str(place))
  if isinstance(statement, config_parser.BlockDeclaration):
    return []  # its bindings follow as statements of their own
  if not statement.arg_name:
    return [Statement(statement.scope, statement.selector, None, statement.value, place)]
  return [
    Statement(statement.scope, statement.selector, statement.arg_name, statement.value, place)
  ]
