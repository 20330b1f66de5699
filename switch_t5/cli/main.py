# SPDX-License-Identifier: Apache-2.0
"""`switch_t5 MODE [ARGUMENTS] [FLAGS]`: picks the mode, runs it, turns errors into exit codes."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from switch_t5.cli import flags, platform, supervisor
from switch_t5.cli.plain_logging import plain_logging
from switch_t5.errors import ConfigError, SwitchT5Error, suggest

INTERRUPTED = 130  # 128 + SIGINT, as shells report it


@dataclasses.dataclass(frozen=True)
class Mode:
  """One mode of the command line.

  Attributes:
    module: the module whose `run(command_line)` does the work; imported only then.
    summary: what the mode does, for the help.
    arguments: its arguments after the mode's name, for the help.
    takes: flags, by attribute of `CommandLine`, that only some modes take and this one does.
  """

  module: str
  summary: str
  arguments: str = ""
  takes: tuple[str, ...] = ()


MODES = {
  "train": Mode(
    "train",
    "train a model, or go on with one that was stopped",
    takes=("dry_run", "trace_steps"),
  ),
  "eval": Mode("evaluate", "evaluate a checkpoint", takes=("json",)),
  "cache": Mode("cache", "prepare a task's data once, for training to read", takes=("job",)),
  "config": Mode(
    "show_config",
    "print the configuration with every macro resolved",
    takes=("json", "list_configurables"),
  ),
  "checkpoint": Mode(
    "checkpoint",
    "list, verify or compare checkpoints",
    "ls|verify|diff PATH...",
    takes=("json",),
  ),
  "convert": Mode(
    "convert",
    "read or write other formats; make a dense model a Switch model",
    "import|export|upcycle",
    takes=("from_path", "to", "format"),
  ),
  "cache_teacher": Mode(
    "cache_teacher",
    "ask a teacher once, for students to be trained on what it said",
    takes=("job", "dry_run"),
  ),
  "generate": Mode(
    "generate",
    "answer prompts: arguments, typed, or a line each of a pipe",
    '["TEXT" ...]',
    takes=("from_path", "vocabulary_path", "json"),
  ),
  "score": Mode(
    "score",
    "say how likely a model finds given targets",
    "FILE.jsonl",
    takes=("from_path", "vocabulary_path", "to", "json"),
  ),
  "infer": Mode("infer", "answer all texts of a file or a task", takes=("job", "dry_run")),
  "plan": Mode(
    "plan",
    "compile the step for devices that are not here: does it fit?",
    takes=("topology", "search", "to", "dry_run", "json"),
  ),
  "study": Mode(
    "study",
    "repeat an experiment of the paper: all its runs, and its table",
    "NAME",
    takes=("size", "seeds", "vary", "random", "to", "dry_run"),
  ),
  "report": Mode(
    "report",
    "show a run as one page, or compare several",
    "MODEL_DIR...",
    takes=("to", "watch"),
  ),
}
_SELECTIVE = {
  "json": "--json",
  "list_configurables": "--list",
  "dry_run": "--dry_run",
  "trace_steps": "--trace_steps",
  "job": "--job",
  "from_path": "--from",
  "vocabulary_path": "--vocabulary_path",
  "to": "--to",
  "format": "--format",
  "size": "--size",
  "seeds": "--seeds",
  "vary": "--vary",
  "random": "--random",
  "topology": "--topology",
  "search": "--search",
  "watch": "--watch",
}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line and returns its exit code.

  Args:
    argv: what follows the program's name; None takes it from `sys.argv`.
  """
  argv = sys.argv[1:] if argv is None else list(argv)
  try:
    command_line = flags.parse(argv)
    address, debug = command_line.coordinator_address, command_line.debug
    if address is None:
      return _reported(functools.partial(_run, command_line), debug)
    return supervisor.run(
      functools.partial(_reported, functools.partial(_run_with_others, command_line), debug),
      where=address,
      index=command_line.process_index,
      timeout=command_line.peer_timeout,
      show_all=debug,
    )
  except SwitchT5Error as error:
    return _report(error, "--debug" in argv)


def command() -> NoReturn:
  """The program: runs `main`, and leaves with its exit code.

  After an error at once: the threads of a save that failed may be at work, and Python's own end, which
  takes the ground from under them, has ended in SIGSEGV and not in the error's code.
  """
  code = main()
  if code == 0:
    sys.exit(0)
  logging.shutdown()
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def _reported(body: Callable[[], int], debug: bool) -> int:
  """Runs `body` and returns its exit code, that of an error of ours once it is printed."""
  try:
    with plain_logging(debug=debug):
      return body()
  except SwitchT5Error as error:
    return _report(error, debug)
  except BrokenPipeError:  # `| head` has seen enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
  except KeyboardInterrupt:
    print("switch_t5: interrupted", file=sys.stderr)
    return INTERRUPTED


def _report(error: SwitchT5Error, debug: bool) -> int:
  if debug:
    traceback.print_exception(error)
  print(f"switch_t5: {error}", file=sys.stderr)
  return error.exit_code


def _run_with_others(command_line: flags.CommandLine) -> int:
  with supervisor.verdict_awaited(command_line.peer_timeout):
    return _run(command_line)


def _run(command_line: flags.CommandLine) -> int:
  if command_line.help:
    print(help_text())
    return 0
  name = _mode_name(command_line)
  mode = MODES[name]
  for attribute, flag in _SELECTIVE.items():
    if getattr(command_line, attribute) and attribute not in mode.takes:
      takers = ", ".join(other for other in MODES if attribute in MODES[other].takes)
      raise ConfigError(f"The mode {name} does not take {flag}.", remedy=f"Only for: {takers}.")
  if command_line.arguments[1:] and not mode.arguments:
    raise ConfigError(
      f"The mode {name} takes flags only.",
      value=" ".join(command_line.arguments[1:]),
      remedy="A flag begins with --, and its value follows `=` without spaces.",
    )
  platform.select(command_line.platform, command_line.emulate_devices)
  _import_tasks(command_line.imports)
  module = importlib.import_module(f"switch_t5.cli.{mode.module}")
  return module.run(command_line) or 0


def _mode_name(command_line: flags.CommandLine) -> str:
  if not command_line.arguments:
    raise ConfigError(
      "No mode was given.",
      rule="switch_t5 MODE [FLAGS]",
      remedy=f"Modes: {', '.join(MODES)}. `switch_t5 --help` explains them.",
    )
  name = command_line.arguments[0]
  if name not in MODES:
    raise ConfigError("There is no such mode.", value=name, remedy=suggest(name, MODES))
  return name


def _import_tasks(modules: Sequence[str]) -> None:
  """Imports the user's modules, the current folder's included."""
  if modules and os.getcwd() not in sys.path:
    sys.path.insert(0, os.getcwd())
  for name in modules:
    try:
      importlib.import_module(name)
    except ModuleNotFoundError as error:
      if error.name is None or not f"{name}.".startswith(f"{error.name}."):
        raise  # something that the module itself imports
      raise ConfigError(
        "The module of --import does not exist.",
        value=name,
        rule="looked up in the current folder and in the installed packages",
        remedy="Give a module's name, for instance my_tasks for my_tasks.py, not a path.",
      ) from None


def help_text() -> str:
  """Returns the help: modes, flags, examples and exit codes."""
  modes = [(f"{name} {mode.arguments}".strip(), mode.summary) for name, mode in MODES.items()]
  codes = [
    ("0", "done"),
    ("1", "checkpoint diff: the checkpoints differ; plan: it does not fit"),
    ("2", "usage or configuration"),
    ("3", "data or checkpoint"),
    ("4", "diverged"),
    ("75", "stopped by a signal after saving: the same command goes on"),
    ("76", "another process of the run was lost: run them all again"),
    ("130", "interrupted before there was anything to save"),
  ]
  examples = [
    "switch_t5 train --gin_file=recipes/pretrain_demo.gin --gin.MODEL_DIR=\"'runs/demo'\"",
    "switch_t5 config --gin_file=recipes/pretrain_demo.gin --json ...",
    "switch_t5 config --list",
    'switch_t5 generate "some text <extra_id_0> more" --from=runs/demo',
  ]
  return "\n".join(
    [
      "Switch Transformers in JAX.",
      "",
      "Usage: switch_t5 MODE [ARGUMENTS] [FLAGS]",
      "",
      "Modes:",
      *_table(modes),
      "",
      "Flags:",
      *_table(flags.HELP),
      "",
      "Examples:",
      *(f"  {example}" for example in examples),
      "",
      "Exit codes:",
      *_table(codes),
    ]
  )


def _table(rows: Sequence[tuple[str, str]]) -> list[str]:
  width = max(len(left) for left, _ in rows) + 2
  return [f"  {left:{width}}{right}" for left, right in rows]


if __name__ == "__main__":
  command()
