# SPDX-License-Identifier: Apache-2.0
"""The mode `config`: what a run would use, or with `--list` what gin may configure."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

from switch_t5.cli import gin_setup
from switch_t5.cli.configuration import Configuration
from switch_t5.cli.flags import CommandLine
from switch_t5.cli.gin_text import format_assignment, format_value, is_literal
from switch_t5.errors import ConfigError


def run(command_line: CommandLine) -> None:
  """Prints the configuration of the command line, or the list of configurables."""
  from switch_t5.cli.configurables import CONFIGURABLES

  if command_line.list_configurables:
    print(listing(CONFIGURABLES, as_json=command_line.json))
    return
  if not command_line.gin_files and not command_line.gin_bindings:
    raise ConfigError(
      "There is no configuration to print.",
      remedy="Give --gin_file=FILE, or --list for what gin may configure.",
    )
  configuration = gin_setup.load_command_line(command_line, CONFIGURABLES)
  print(describe(configuration, model_facts(configuration), as_json=command_line.json))


def model_facts(configuration: Configuration) -> dict[str, Any]:
  """Returns the size and the cost of the configured model; {} if no run is configured."""
  if not any(name.startswith("train.") for name in configuration.bindings()):
    return {}
  from switch_t5.model.cost import forward_flops_per_sequence, parameter_count

  train = configuration.call("train")
  model = train.model.with_lengths(train.dataset.encoder_length)
  lengths = (train.dataset.encoder_length, train.dataset.decoder_length)
  return {
    "parameters": parameter_count(model),
    "forward_flops_per_sequence": forward_flops_per_sequence(model, *lengths),
  }


def describe(configuration: Configuration, facts: Mapping[str, Any], *, as_json: bool) -> str:
  """Returns every binding after macros are resolved.

  Args:
    configuration: what was loaded.
    facts: what else is known of it, such as its number of parameters, by name.
    as_json: one JSON object `{"bindings": {...}, "macros": {...}, **facts}` instead of lines.
  """
  bindings = configuration.bindings()
  if as_json:
    return json.dumps(
      {"bindings": bindings, "macros": configuration.macros(), **facts}, indent=2, default=str
    )
  lines = [format_assignment(name, value) for name, value in bindings.items()]
  if facts:
    lines += ["", *(f"# {name}: {value}" for name, value in facts.items())]
  return "\n".join(lines)


def listing(configurables: Mapping[str, Callable[..., Any]], *, as_json: bool) -> str:
  """Returns the configurables with their parameters, defaults and first line of documentation."""
  table: dict[str, Any] = {
    name: {
      "summary": _summary(target),
      "parameters": {
        parameter.name: _default(parameter)
        for parameter in inspect.signature(target).parameters.values()
      },
    }
    for name, target in sorted(configurables.items())
  }
  if as_json:
    return json.dumps(table, indent=2)
  lines = []
  for name, entry in table.items():
    lines += [name, f"  {entry['summary']}"]
    lines += [f"    {key} = {value}" for key, value in entry["parameters"].items()]
    lines.append("")
  return "\n".join(lines).rstrip()


def _summary(target: Callable[..., Any]) -> str:
  return (inspect.getdoc(target) or "").partition("\n")[0]


def _default(parameter: inspect.Parameter) -> str:
  if parameter.default is inspect.Parameter.empty:
    return "(required)"
  if is_literal(parameter.default):
    return format_value(parameter.default)
  return getattr(parameter.default, "__name__", repr(parameter.default))
