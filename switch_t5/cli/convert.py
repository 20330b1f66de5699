# SPDX-License-Identifier: Apache-2.0
"""The modes `convert import` and `convert export`: checkpoints of other systems, in and out."""

from __future__ import annotations

import functools
import math
import shutil
from pathlib import Path

from tqdm import tqdm

from switch_t5.checkpoint.manager import CONFIG
from switch_t5.cli import model_file
from switch_t5.cli.flags import CommandLine
from switch_t5.errors import ConfigError, suggest
from switch_t5.interop import convert, detect
from switch_t5.interop.checkpoint import StoredCheckpoint
from switch_t5.interop.model_shape import expected_shapes
from switch_t5.interop.own_names import optimizer_obstacle
from switch_t5.model.config import ModelConfig

ACTIONS = ("import", "export")
USAGE = "switch_t5 convert import|export --from=CHECKPOINT --to=FOLDER --format=FORMAT"
TOKENIZER = "spiece.model"
MODEL_FILE = "model.gin"


def run(command_line: CommandLine) -> None:
  """Converts one checkpoint and says what became of it."""
  action = _check(command_line)
  source = open_source(str(command_line.from_path))
  if action == "import":
    _import(command_line, source)
  else:
    _export(command_line, source)


def open_source(path: str) -> StoredCheckpoint:
  """Opens a checkpoint of any format and says what it is."""
  source = detect.open_checkpoint(path)
  print(f"{source.path}: {source.format}, step {source.step}, {len(source.arrays)} arrays")
  for note in source.notes:
    print(f"  {note}")
  return source


def describe_model(config: ModelConfig) -> str:
  """Returns a line on the model."""
  count = sum(math.prod(shape) for shape in expected_shapes(config).values())
  experts = f"Switch, {config.num_experts} experts" if config.num_experts else "dense"
  return f"Model: {experts}, {count:,} parameters"


def _import(command_line: CommandLine, source: StoredCheckpoint) -> None:
  kind, _ = detect.detect(str(command_line.from_path))
  if command_line.format not in (None, kind):
    raise ConfigError(
      "The checkpoint has another format than --format says.",
      value=f"--format={command_line.format}, found {kind}",
      remedy="leave --format out: it is detected",
    )
  config = convert.model_of(source)
  print(describe_model(config))
  model_dir = Path(str(command_line.to))
  text = model_file.render(config, str(source.path), source.format)
  with _bar(convert.written_bytes(source, detect.OWN)) as bar:
    written = convert.import_checkpoint(source, model_dir, text, functools.partial(_advance, bar))
  (model_dir / MODEL_FILE).write_text(text, encoding="utf-8")
  print(f"Written: {written}\nModel file: {model_dir / MODEL_FILE}")
  if source.tokenizer is not None:
    shutil.copyfile(source.tokenizer, model_dir / TOKENIZER)
    print(f"Vocabulary: {model_dir / TOKENIZER}, for VOCABULARY_PATH")
  if obstacle := optimizer_obstacle(source):
    print(
      f"{obstacle}\n  So a run starts from it with INITIAL_CHECKPOINT_PATH; `eval` takes it as it is."
    )
  else:
    print(f"A run with MODEL_DIR = '{model_dir}' and Adafactor goes on from step {source.step}.")


def _export(command_line: CommandLine, source: StoredCheckpoint) -> None:
  config = convert.model_of(source)
  print(describe_model(config))
  kind = str(command_line.format)
  if kind == detect.HUGGING_FACE:
    model_file.check_plain_routing(source.path / CONFIG)
  tokenizer = source.tokenizer or model_file.vocabulary(source.path / CONFIG)
  with _bar(convert.written_bytes(source, kind)) as bar:
    written = convert.export_checkpoint(
      source, kind, Path(str(command_line.to)), functools.partial(_advance, bar), tokenizer
    )
  print(f"Written: {written}")
  if kind == detect.HUGGING_FACE:
    if len(source.arrays) > len(source.parameters()):
      print("Step and optimizer state are left out: Hugging Face's format has parameters only.")
    if tokenizer is None:
      print(
        "No tokenizer is written: the checkpoint does not say which vocabulary it was trained on."
      )


def _check(command_line: CommandLine) -> str:
  """Returns the action."""
  arguments = command_line.arguments[1:]
  if len(arguments) != 1 or arguments[0] not in ACTIONS:
    raise ConfigError(
      "The mode convert takes an action.",
      value=" ".join(arguments) or None,
      rule=USAGE,
      remedy=suggest(arguments[0], ACTIONS) if arguments else None,
    )
  for name, value in (("--from", command_line.from_path), ("--to", command_line.to)):
    if not value:
      raise ConfigError(f"{name} is missing.", rule=USAGE)
  formats = convert.EXPORTED if arguments[0] == "export" else detect.FORMATS
  chosen = command_line.format
  if chosen not in formats and (arguments[0] == "export" or chosen is not None):
    raise ConfigError(
      "--format is not a format." if chosen else "--format is missing.",
      value=chosen,
      rule=f"one of {', '.join(formats)}",
      remedy=suggest(chosen, formats) if chosen else None,
    )
  return arguments[0]


def _bar(size: int) -> tqdm:
  """Returns a bar of bytes, which shows on a terminal only."""
  return tqdm(total=size, unit="B", unit_scale=True, disable=None, dynamic_ncols=True)


def _advance(bar: tqdm, name: str, size: int) -> None:
  """Counts an array that is done."""
  bar.set_postfix_str(name[-40:], refresh=False)
  bar.update(size)
