# SPDX-License-Identifier: Apache-2.0
"""The flags of the command line, as absl reads them, and `--gin.NAME=VALUE` as T5X does."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Sequence
from typing import Any

from absl import flags

from switch_t5.errors import ConfigError, suggest

PLATFORMS = ("cpu", "gpu", "tpu")
AUTO = "auto"
_REWRITTEN = {"--gin.": "--gin_bindings", "--vary.": "--vary"}
PEER_TIMEOUT = 60


@dataclasses.dataclass(frozen=True)
class CommandLine:
  """What the user typed after `switch_t5`.

  Attributes:
    arguments: what is not a flag: the mode, then the mode's own arguments.
    gin_files: the gin files, later ones win.
    gin_bindings: bindings as gin text, in the order given; they win over files.
    gin_search_paths: folders to look for gin files in, before `.` and the packaged ones.
    imports: modules to import first, with tasks of the user's own.
    platform: cpu, gpu or tpu, or None for what JAX finds.
    emulate_devices: how many CPU devices to emulate, or None.
    coordinator_address: HOST:PORT of process 0, or None if there is one process; AUTO if JAX is to
      find it, the count and the index in what a scheduler or a TPU says.
    process_count: processes of the run.
    process_index: which of them this is.
    peer_timeout: seconds without a sign of life after which another process is lost.
    dry_run: check everything, train nothing.
    trace_steps: first and last step of a profiler trace, or None.
    job: (I, N), this job's number, from 0, and how many share the work; None is (0, 1).
    from_path: --from: the checkpoint to convert, or to ask.
    to: the folder or file to write to.
    vocabulary_path: of the checkpoint of --from.
    format: of a checkpoint.
    size: of a study.
    seeds: of a study: how many.
    vary: of a sweep: settings and their values, as gin text.
    random: of a sweep: how many trials are drawn; None: all combinations.
    topology: of a plan: the devices.
    search: of a plan: rank the layouts.
    watch: of a report: write it again and again.
    debug: show tracebacks.
    json: print one JSON object.
    list_configurables: print what gin may configure.
    help: print the help.
    started: `time.monotonic()` when it was read.
  """

  arguments: tuple[str, ...] = ()
  gin_files: tuple[str, ...] = ()
  gin_bindings: tuple[str, ...] = ()
  gin_search_paths: tuple[str, ...] = ()
  imports: tuple[str, ...] = ()
  platform: str | None = None
  emulate_devices: int | None = None
  coordinator_address: str | None = None
  process_count: int | None = None
  process_index: int | None = None
  peer_timeout: int = PEER_TIMEOUT
  dry_run: bool = False
  trace_steps: tuple[int, int] | None = None
  job: tuple[int, int] | None = None
  from_path: str | None = None
  to: str | None = None
  vocabulary_path: str | None = None
  format: str | None = None
  size: str | None = None
  seeds: int | None = None
  vary: tuple[str, ...] = ()
  random: int | None = None
  topology: str | None = None
  search: bool = False
  watch: bool = False
  debug: bool = False
  json: bool = False
  list_configurables: bool = False
  help: bool = False
  started: float = dataclasses.field(default_factory=time.monotonic, compare=False)


# (flag as it is shown, help), in the order of the help page.
HELP = (
  ("--gin_file=FILE", "a gin file, a path or one of configs/; repeatable, later ones win"),
  ("--gin.NAME=VALUE", "set a macro, or SELECTOR.PARAMETER; texts need inner quotes"),
  ("--gin_bindings='NAME = VALUE'", "the same, spelt as gin does"),
  ("--gin_search_paths=A,B", "folders to look for gin files in, before . and configs/"),
  ("--import=MODULE", "import a module that registers tasks of your own"),
  ("--platform=cpu|gpu|tpu", "run there or fail; without it, what JAX finds"),
  ("--emulate_devices=N", "emulate N devices on the CPU"),
  ("--coordinator_address=HOST:PORT", "of process 0, in a run of several processes; or auto"),
  ("--process_count=N", "processes of the run"),
  ("--process_index=I", "which of them this is, from 0"),
  ("--peer_timeout=SECONDS", "silence after which another process is lost; 60 without it"),
  ("--dry_run", "check, then stop (train, infer, cache_teacher, study, plan)"),
  ("--trace_steps=A:B", "write a profiler trace of steps A to B to MODEL_DIR/trace (train)"),
  ("--job=I/N", "part I of N from 0; may run at once (cache, cache_teacher, infer)"),
  ("--from=PATH", "a checkpoint of any format (convert, generate, score)"),
  ("--vocabulary_path=FILE", "its SentencePiece model, if it has none (generate, score)"),
  ("--to=PATH", "the folder or file to write (convert, score, study, plan, report)"),
  ("--format=FORMAT", "t5x, orbax, huggingface or safetensors (convert)"),
  ("--size=SIZE", "test, laptop or pod; laptop without it (study)"),
  ("--seeds=N", "how many seeds, at least 2 (study)"),
  ("--vary.NAME=VALUES", "a setting of gin and a list of values to try (study sweep)"),
  ("--random=N", "N trials at random, not all combinations (study sweep)"),
  ("--topology=CHIP:DEVICES", "v5p:8x8x8, v5e:16x16*2, h100:64, cpu:8 (plan)"),
  ("--search", "rank the layouts, and compile the best (plan)"),
  ("--watch", "write the page again every half minute (report)"),
  ("--debug", "show tracebacks"),
  ("--json", "print JSON (config, eval, checkpoint, generate, score, plan)"),
  ("--list", "print what gin may configure (config)"),
)


def _define() -> flags.FlagValues:
  """Returns the flags in a registry of our own: importing a library cannot add to it."""
  values = flags.FlagValues()
  values.set_gnu_getopt()  # flags and arguments in any order
  for name in ("gin_file", "gin_bindings", "import", "vary"):
    flags.DEFINE_multi_string(name, [], "", flag_values=values)
  flags.DEFINE_list("gin_search_paths", [], "", flag_values=values)
  flags.DEFINE_enum("platform", None, PLATFORMS, "", flag_values=values)
  flags.DEFINE_integer("emulate_devices", None, "", lower_bound=1, flag_values=values)
  flags.DEFINE_string("coordinator_address", None, "", flag_values=values)
  flags.DEFINE_string("trace_steps", None, "", flag_values=values)
  for name in ("job", "from", "to", "vocabulary_path", "format", "size", "topology"):
    flags.DEFINE_string(name, None, "", flag_values=values)
  for name in ("seeds", "random"):
    flags.DEFINE_integer(name, None, "", lower_bound=2, flag_values=values)
  flags.DEFINE_integer("process_count", None, "", lower_bound=1, flag_values=values)
  flags.DEFINE_integer("process_index", None, "", lower_bound=0, flag_values=values)
  flags.DEFINE_integer("peer_timeout", PEER_TIMEOUT, "", lower_bound=1, flag_values=values)
  for name in ("dry_run", "search", "watch", "debug", "json", "list", "help"):
    flags.DEFINE_boolean(name, False, "", flag_values=values)
  return values


def parse(argv: Sequence[str]) -> CommandLine:
  """Returns the parsed command line.

  Args:
    argv: what follows the program's name.

  Raises:
    ConfigError: for a flag that does not exist or a value that it does not take.
  """
  values = _define()
  try:
    arguments = values(["switch_t5", *map(_rewrite_binding, argv)])[1:]
  except flags.UnrecognizedFlagError as error:
    raise ConfigError(
      "There is no such flag.",
      value=f"--{error.flagname}",
      remedy=suggest(f"--{error.flagname}", [text.partition("=")[0] for text, _ in HELP]),
    ) from None
  except flags.Error as error:
    raise ConfigError("A flag cannot be read.", value=str(error)) from None
  found: dict[str, Any] = values.flag_values_dict()
  return CommandLine(
    arguments=tuple(arguments),
    gin_files=tuple(found["gin_file"]),
    gin_bindings=tuple(found["gin_bindings"]),
    gin_search_paths=tuple(found["gin_search_paths"]),
    imports=tuple(found["import"]),
    platform=found["platform"],
    emulate_devices=found["emulate_devices"],
    coordinator_address=found["coordinator_address"],
    process_count=found["process_count"],
    process_index=found["process_index"],
    peer_timeout=found["peer_timeout"],
    dry_run=found["dry_run"],
    trace_steps=_parse_steps(found["trace_steps"]),
    job=_parse_job(found["job"]),
    from_path=found["from"],
    to=found["to"],
    vocabulary_path=found["vocabulary_path"],
    format=found["format"],
    size=found["size"],
    seeds=found["seeds"],
    vary=tuple(found["vary"]),
    random=found["random"],
    topology=found["topology"],
    search=found["search"],
    watch=found["watch"],
    debug=found["debug"],
    json=found["json"],
    list_configurables=found["list"],
    help=found["help"],
  )


def _parse_steps(text: str | None) -> tuple[int, int] | None:
  """Returns (A, B) of `A:B`."""
  if text is None:
    return None
  match = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", text)
  if match is None or int(match[1]) > int(match[2]):
    raise ConfigError(
      "--trace_steps is not a range of steps.",
      value=text,
      rule="A:B, the first and the last step, counted from 1",
      remedy="--trace_steps=10:15",
    )
  return int(match[1]), int(match[2])


def _parse_job(text: str | None) -> tuple[int, int] | None:
  """Returns (I, N) of `I/N`."""
  if text is None:
    return None
  match = re.fullmatch(r"(\d+)/(\d+)", text, re.ASCII)
  if match is None or int(match[1]) >= int(match[2]):
    raise ConfigError(
      "--job is not a part of the work.",
      value=text,
      rule="I/N, where I is the number of the job, from 0 to N - 1, and N is how many there are",
      remedy="--job=0/8 for the first of eight jobs, --job=7/8 for the last",
    )
  return int(match[1]), int(match[2])


def _rewrite_binding(argument: str) -> str:
  """Turns `--gin.NAME=VALUE` into `--gin_bindings=NAME = VALUE`, and `--vary.NAME=VALUES` likewise."""
  prefix = next((prefix for prefix in _REWRITTEN if argument.startswith(prefix)), None)
  if prefix is None:
    return argument
  match = re.fullmatch(rf"{re.escape(prefix)}([^=]+)=(.*)", argument, re.DOTALL)
  if match is None:
    raise ConfigError(
      "A binding has no value.",
      value=argument,
      rule=f"{prefix}NAME=VALUE, in one word",
      remedy=f"Write {argument}=VALUE",
    )
  return f"{_REWRITTEN[prefix]}={match[1]} = {match[2]}"
