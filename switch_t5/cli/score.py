# SPDX-License-Identifier: Apache-2.0
"""The mode `score`: the log-probability of given targets."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator
from typing import NamedTuple, TextIO

import jax
from tqdm import tqdm

from switch_t5.cli import asking, distributed, gin_setup
from switch_t5.cli.configurables import CONFIGURABLES
from switch_t5.cli.flags import CommandLine
from switch_t5.cli.infer_config import LoadConfig
from switch_t5.data.text_records import is_jsonl, read_records
from switch_t5.errors import ConfigError, DataError
from switch_t5.inference.text_model import TextModel
from switch_t5.storage import files
from switch_t5.storage.location import location

USAGE = "switch_t5 score FILE.jsonl --from=CHECKPOINT [--to=FILE]"
_KEYS = ("inputs", "targets")
_BATCH = 8
_PART = 16  # batches that are read before they are scored


class Scored(NamedTuple):
  """Targets and what the model thinks of them.

  Attributes:
    log_probability: of all tokens, in nats.
    tokens: EOS included.
  """

  log_probability: float
  tokens: int

  def as_json(self) -> dict[str, float]:
    """Returns it with the mean over the tokens."""
    mean = self.log_probability / self.tokens
    return {
      "log_probability": self.log_probability,
      "tokens": self.tokens,
      "mean_log_probability": mean,
    }

  def __str__(self) -> str:
    mean = self.log_probability / self.tokens
    return f"{self.log_probability:12.4f} {self.tokens:8} {mean:12.4f}"


def run(command_line: CommandLine) -> None:
  """Prints the score of each line of a file, and that of all."""
  path = _file(command_line)
  configuration = gin_setup.load_command_line(command_line, CONFIGURABLES, "LoadConfig")
  config: LoadConfig = configuration.call("LoadConfig", **asking.checkpoint_of(command_line))
  count = sum(1 for _ in read_records(path, _KEYS))  # what is wrong with it is said at once
  distributed.start(command_line, configuration)
  speaks = jax.process_index() == 0
  with _written(command_line.to if speaks else None) as file:
    model = asking.load(config, at_once=_BATCH)
    scores = tqdm(
      score_file(model, path), total=count, unit="line", disable=None, dynamic_ncols=True
    )
    found = []
    if speaks and not command_line.json:
      print(f"{'nats':>12} {'tokens':>8} {'per token':>12}")
    for scored in scores:
      found.append(scored)
      if file is not None:
        file.write(json.dumps(scored.as_json(), allow_nan=False) + "\n")
      if speaks and not command_line.json:
        scores.write(str(scored))
  total = Scored(sum(s.log_probability for s in found), sum(s.tokens for s in found))
  if speaks and command_line.json:
    print(json.dumps({"scores": [s.as_json() for s in found]} | total.as_json(), allow_nan=False))
  elif speaks:
    print(f"{total}  all {count} lines")


def score_file(model: TextModel, path: str) -> Iterator[Scored]:
  """Yields the score of each line of a .jsonl file."""
  records = enumerate(read_records(path, _KEYS), start=1)
  while part := list(itertools.islice(records, _PART * model.batch_size)):
    inputs, targets = (model.encode([record[key] for _, record in part]) for key in _KEYS)
    scores = model.score_ids(inputs, targets)
    for (number, _), ids, score in zip(part, targets, scores, strict=True):
      asking.require_numbers([score], f"{path}, example {number}")
      yield Scored(score, len(ids))


def _file(command_line: CommandLine) -> str:
  """Returns the file that is to be scored."""
  arguments = command_line.arguments[1:]
  if len(arguments) != 1:
    raise ConfigError("The mode score takes a file.", value=" ".join(arguments) or None, rule=USAGE)
  if not is_jsonl(arguments[0]):
    raise DataError(
      "The file is not named as JSON lines are.",
      value=arguments[0],
      rule='a .jsonl or .jsonl.gz file, each line an object with "inputs" and "targets"',
    )
  return arguments[0]


@contextlib.contextmanager
def _written(path: str | None) -> Iterator[TextIO | None]:
  """Gives a file, which has its name once all of it is written; None if there is no path."""
  if path is None:
    yield None
    return
  target = location(path)
  if files.exists(target):
    raise ConfigError(
      "There is something already where the scores would go.",
      value=path,
      rule="nothing is overwritten",
      remedy="choose another --to, or remove it",
    )
  try:
    with files.committed(target) as unfinished, unfinished.open("w", encoding="utf-8") as file:
      yield file
  except BrokenPipeError:  # of the standard output
    raise
  except OSError as error:
    raise ConfigError(
      f"--to cannot be written: {error.strerror}.", value=path, remedy="choose another --to"
    ) from error
