# SPDX-License-Identifier: Apache-2.0
"""The mode `convert`: checkpoints of other systems in and out, and dense models made sparse."""

from __future__ import annotations

import dataclasses
import functools
import math

from tqdm import tqdm

from switch_t5.checkpoint.manager import CONFIG
from switch_t5.cli import gin_setup, model_card, model_file
from switch_t5.cli.configurables import CONFIGURABLES
from switch_t5.cli.flags import CommandLine
from switch_t5.data import file_copies
from switch_t5.errors import ConfigError, suggest
from switch_t5.interop import convert, detect, upcycle
from switch_t5.interop.checkpoint import StoredCheckpoint
from switch_t5.interop.huggingface import TOKENIZER
from switch_t5.interop.model_shape import expected_shapes
from switch_t5.interop.own_names import optimizer_obstacle
from switch_t5.model.config import ModelConfig
from switch_t5.storage import files
from switch_t5.storage.location import Location, location

ACTIONS = ("import", "export", "upcycle")
USAGE = (
  "switch_t5 convert import|export --from=CHECKPOINT --to=FOLDER --format=FORMAT, or "
  "switch_t5 convert upcycle --from=CHECKPOINT --to=FOLDER --gin_file=models/switch_base_8.gin"
)
MODEL_FILE = "model.gin"


def run(command_line: CommandLine) -> None:
  """Converts one checkpoint and says what became of it."""
  action = _check(command_line)
  target = _target(command_line) if action == "upcycle" else None
  source = open_source(str(command_line.from_path))
  if target is not None:
    _upcycle(command_line, source, target)
  elif action == "import":
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
  return f"Model: {config.kind}, {_num_parameters(config):,} parameters"


def _num_parameters(config: ModelConfig) -> int:
  return sum(math.prod(shape) for shape in expected_shapes(config).values())


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
  text = model_file.render(config, str(source.path), source.format)
  model_dir = _write(command_line, source, text, text)
  if obstacle := optimizer_obstacle(source):
    print(
      f"{obstacle}\n  So a run starts from it with INITIAL_CHECKPOINT_PATH; `eval` takes it as it is."
    )
  else:
    print(f"A run with MODEL_DIR = '{model_dir}' and Adafactor goes on from step {source.step}.")


def _upcycle(command_line: CommandLine, source: StoredCheckpoint, target: ModelConfig) -> None:
  print(describe_model(convert.model_of(source)))
  upcycled = upcycle.upcycle(source, target)
  print(f"becomes {describe_model(target)}")
  for line in upcycle.describe(target):
    print(f"  {line}")
  text = model_file.render(target, str(source.path), upcycled.format)
  model_dir = _write(command_line, upcycled, text, model_file.complete(text))
  print(
    f"A run starts from it with INITIAL_CHECKPOINT_PATH = '{model_dir}'; it has no optimizer state, and "
    "that run counts its steps from 0."
  )


def _write(
  command_line: CommandLine, source: StoredCheckpoint, model: str, config: str
) -> Location:
  """Writes a checkpoint as a run of ours, with its vocabulary, and returns the run's folder.

  Args:
    command_line: says which folder.
    source: whose arrays are written.
    model: the text of the model's file.
    config: that of the checkpoint's configuration.
  """
  model_dir = location(str(command_line.to))
  with _bar(convert.written_bytes(source, detect.OWN)) as bar:
    written = convert.import_checkpoint(source, model_dir, config, functools.partial(_advance, bar))
  with files.committed(model_dir / MODEL_FILE) as temporary:
    temporary.write_text(model, encoding="utf-8")
  print(f"Written: {written}\nModel file: {model_dir / MODEL_FILE}")
  tokenizer = source.tokenizer or model_file.vocabulary_of(source.path)
  if tokenizer is not None and files.is_file(tokenizer):
    with files.committed(model_dir / TOKENIZER) as temporary:
      temporary.write_bytes(files.read(tokenizer))
    print(f"Vocabulary: {model_dir / TOKENIZER}, for VOCABULARY_PATH")
  return model_dir


def _target(command_line: CommandLine) -> ModelConfig:
  """Returns the model that the gin files say; dropout, which a run's file sets, is of no account."""
  if not command_line.gin_files:
    raise ConfigError("--gin_file is missing: what the dense model becomes.", rule=USAGE)
  try:
    configuration = gin_setup.load_command_line(command_line, CONFIGURABLES, "ModelConfig")
  except ConfigError:  # a model's file alone
    bindings = (*model_file.NO_DROPOUT, *command_line.gin_bindings)
    whole = dataclasses.replace(command_line, gin_bindings=bindings)
    configuration = gin_setup.load_command_line(whole, CONFIGURABLES, "ModelConfig")
  config: ModelConfig = configuration.call("ModelConfig")
  return config


def _export(command_line: CommandLine, source: StoredCheckpoint) -> None:
  config = convert.model_of(source)
  print(describe_model(config))
  kind = str(command_line.format)
  if kind == detect.HUGGING_FACE:
    model_file.check_plain_routing(source.path / CONFIG)
  given = source.tokenizer or model_file.vocabulary_of(source.path)
  tokenizer = None if given is None else file_copies.copy_file(given)
  routed = model_file.model(source.path / CONFIG) or config  # arrays do not say how they are routed
  texts = model_card.texts(model_card.card(source, routed, _num_parameters(config)), kind)
  with _bar(convert.written_bytes(source, kind)) as bar:
    written = convert.export_checkpoint(
      source,
      kind,
      location(str(command_line.to)),
      functools.partial(_advance, bar),
      tokenizer,
      texts,
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
  if arguments[0] == "upcycle" and command_line.format is not None:
    raise ConfigError(
      "convert upcycle takes no --format.",
      value=command_line.format,
      rule="it reads any, and writes ours",
      remedy="leave it out; convert export writes the others",
    )
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
