# SPDX-License-Identifier: Apache-2.0
"""A loaded configuration: bindings, macros, and the calls that they describe.

The rules are gin's: a binding of `a/f.x` holds where `f` is evaluated in scope `a`, and wins over
`f.x`; a reference without a scope is evaluated in the scope that it is met in; `@f()` is evaluated
anew at each use; what a caller passes wins over the configuration. The set of callables is closed:
only what the mode registered can be called.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from switch_t5.cli.gin_text import format_assignment, is_literal
from switch_t5.cli.gin_walk import Macro, Reference, contents, scoped
from switch_t5.cli.value_types import broken_rule
from switch_t5.errors import ConfigError

Node = tuple[str, str]  # (scope, selector)


class Configuration:
  """Bindings that `gin_setup.load` has checked.

  Args:
    configurables: the callables, by selector.
    bindings: for each (scope, selector) the values of its parameters, macros unresolved.
    macros: the value of each macro, other macros unresolved.
  """

  def __init__(
    self,
    configurables: Mapping[str, Callable[..., Any]],
    bindings: Mapping[Node, Mapping[str, Any]],
    macros: Mapping[str, Any],
  ):
    self._configurables = configurables
    self._bindings = bindings
    self._macros = macros

  def call(self, selector: str, *args: Any, **kwargs: Any) -> Any:
    """Calls a configurable with its bindings; arguments given here win.

    Raises:
      ConfigError: if a parameter has neither a value nor a default, here or in what it refers to.
    """
    self._require_arguments("", selector, args, kwargs)
    return self._invoke("", selector, args, kwargs)

  def macro(self, name: str) -> Any:
    """Returns the value of a macro, references evaluated; raises KeyError if it is not defined."""
    return self._evaluate(self._macros[name], "")

  def bindings(self) -> dict[str, Any]:
    """Returns the value of each bound parameter, macros resolved; a `Reference` stays one."""
    return {
      f"{scoped(*node)}.{parameter}": self._resolve(value)
      for node, values in sorted(self._bindings.items(), key=_by_selector)
      for parameter, value in sorted(values.items())
    }

  def macros(self) -> dict[str, Any]:
    """Returns the value of each macro, other macros resolved; a `Reference` stays one."""
    return {name: self._resolve(value) for name, value in sorted(self._macros.items())}

  def operative_config(self, selector: str) -> str:
    """Returns, as gin text, all that a call of `selector` depends on.

    That is the bindings of everything that it refers to, the defaults of parameters that are not
    bound (those that gin can write), and the macros that these use. Loading the text gives a
    configuration with the same calls, and the same text.
    """
    operative: dict[Node, dict[str, Any]] = {}
    for scope, name in self._reachable("", selector):
      for part in _scopes(scope):
        if values := self._bindings.get((part, name)):
          operative.setdefault((part, name), {}).update(values)
      unscoped = operative.setdefault(("", name), {})
      for parameter, default in _defaults(self._configurables[name]).items():
        if is_literal(default):
          unscoped.setdefault(parameter, default)
    lines = [
      format_assignment(name, value)
      for name, value in sorted(self._macros.items())
      if name in self._macros_of(operative)
    ]
    for node, values in sorted(operative.items(), key=_by_selector):
      lines += ["", f"# {scoped(*node)}"] if values else []
      lines += [
        format_assignment(f"{scoped(*node)}.{parameter}", value)
        for parameter, value in sorted(values.items())
      ]
    return "\n".join(lines).strip() + "\n"

  def references(self, scope: str, selector: str) -> Iterator[tuple[Node, bool]]:
    """Yields what a call refers to: (scope, selector), and whether it is evaluated."""
    for value in self._arguments(scope, selector).values():
      for item in self._without_macros(value):
        yield (item.scope or scope, item.selector), item.evaluate

  def _arguments(self, scope: str, selector: str) -> dict[str, Any]:
    """Returns the values bound in a scope, those of inner scopes winning."""
    arguments: dict[str, Any] = {}
    for part in _scopes(scope):
      arguments.update(self._bindings.get((part, selector), {}))
    return arguments

  def _invoke(self, scope: str, selector: str, args: Any, kwargs: Mapping[str, Any]) -> Any:
    target = self._configurables[selector]
    given = {*kwargs, *list(inspect.signature(target).parameters)[: len(args)]}
    bound = {}
    for name, raw in self._arguments(scope, selector).items():
      if name not in given:
        bound[name] = self._evaluate(raw, scope)
        if rule := broken_rule(target, name, bound[name]):
          raise ConfigError(
            f"{raw.name if isinstance(raw, Macro) else name} is not valid.",
            value=format_assignment(f"{scoped(scope, selector)}.{name}", bound[name]),
            rule=f"it is {rule}",
          )
    return target(*args, **bound, **kwargs)

  def _evaluate(self, value: Any, scope: str) -> Any:
    if isinstance(value, Macro):
      return self._evaluate(self._macros[value.name], scope)
    if isinstance(value, Reference):
      inner = value.scope or scope
      if value.evaluate:
        return self._invoke(inner, value.selector, (), {})

      @functools.wraps(self._configurables[value.selector])
      def configured(*args: Any, **kwargs: Any) -> Any:
        return self._invoke(inner, value.selector, args, kwargs)

      return configured
    return _rebuild(value, lambda part: self._evaluate(part, scope))

  def _resolve(self, value: Any) -> Any:
    if isinstance(value, Macro):
      return self._resolve(self._macros[value.name])
    return _rebuild(value, self._resolve)

  def _without_macros(self, value: Any) -> Iterator[Reference]:
    for item in contents(value):
      if isinstance(item, Macro):
        # %gin.REQUIRED is no macro of ours: what a mode does not call may be left at it.
        yield from self._without_macros(self._macros.get(item.name))
      else:
        yield item

  def _macros_of(self, bindings: Mapping[Node, Mapping[str, Any]]) -> set[str]:
    """Returns the macros that bindings use, through other macros too."""
    found: set[str] = set()
    values = [value for parameters in bindings.values() for value in parameters.values()]
    while values:
      for item in contents(values.pop()):
        if isinstance(item, Macro) and item.name not in found:
          found.add(item.name)
          values.append(self._macros[item.name])
    return found

  def selectors(self, selector: str) -> set[str]:
    """Returns a configurable and all that a call of it refers to."""
    return {name for _, name in self._reachable("", selector)}

  def _reachable(self, scope: str, selector: str) -> list[Node]:
    """Returns a call and all calls that it refers to."""
    found = [(scope, selector)]
    for node in found:  # grows while it is read
      found += [inner for inner, _ in self.references(*node) if inner not in found]
    return found

  def _require_arguments(
    self, scope: str, selector: str, args: Any, kwargs: Mapping[str, Any]
  ) -> None:
    bound = self._arguments(scope, selector)
    for position, parameter in enumerate(_parameters(self._configurables[selector])):
      name = parameter.name
      given = position < len(args) or name in kwargs or name in bound
      if parameter.default is inspect.Parameter.empty and not given:
        raise ConfigError(
          "A parameter has no value.",
          value=f"{scoped(scope, selector)}.{name}",
          rule=f"{selector} has no default for {name}",
          remedy=f"Set it: --gin.{scoped(scope, selector)}.{name}=VALUE",
        )
    for (inner_scope, inner), evaluate in self.references(scope, selector):
      if evaluate:
        self._require_arguments(inner_scope, inner, (), {})


def _parameters(target: Callable[..., Any]) -> list[inspect.Parameter]:
  """Returns the parameters that can be bound by name."""
  by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
  return [p for p in inspect.signature(target).parameters.values() if p.kind in by_name]


def parameters(target: Callable[..., Any]) -> list[str]:
  """Returns the names of the parameters that can be bound."""
  return [parameter.name for parameter in _parameters(target)]


def _defaults(target: Callable[..., Any]) -> dict[str, Any]:
  """Returns the defaults of the parameters that have one."""
  empty = inspect.Parameter.empty
  return {p.name: p.default for p in _parameters(target) if p.default is not empty}


def _scopes(scope: str) -> list[str]:
  """Returns '', 'a', 'a/b' for 'a/b': the scopes whose bindings hold there, outermost first."""
  parts = scope.split("/") if scope else []
  return ["/".join(parts[:count]) for count in range(len(parts) + 1)]


def _rebuild(value: Any, convert: Callable[[Any], Any]) -> Any:
  """Returns a copy of a container with its elements converted; anything else as it is."""
  if isinstance(value, dict):
    return {convert(key): convert(element) for key, element in value.items()}
  if isinstance(value, list | tuple):
    return type(value)(convert(element) for element in value)
  return value


def _by_selector(item: tuple[Node, Any]) -> tuple[str, str]:
  (scope, selector), _ = item
  return selector, scope
