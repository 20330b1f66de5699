# SPDX-License-Identifier: Apache-2.0
"""A model's answers to the examples of tasks, and the files they are written to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from switch_t5.decoding.config import DecodingConfig
from switch_t5.scores.labels import INVALID
from switch_t5.storage import files
from switch_t5.storage.location import Location

Ids = Sequence[int]


class Generated(Protocol):
  """An answer as ids, without EOS and padding."""

  @property
  def ids(self) -> list[int]:
    """Of the answer."""


class Predictor(Protocol):
  """What answers; `switch_t5.inference.text_model.TextModel` is one."""

  @property
  def batch_size(self) -> int:
    """Inputs that are answered at once."""

  def generate_ids(self, inputs: Sequence[Ids], decoding: DecodingConfig) -> Sequence[Generated]:
    """Returns an answer to each input, ids with EOS."""

  def score_ids(self, inputs: Sequence[Ids], targets: Sequence[Ids]) -> Sequence[float]:
    """Returns the log-probability of each target, given its input."""


class Answer(NamedTuple):
  """The answer to one example.

  Attributes:
    example: as the task makes it, NumPy values by name.
    inputs: text.
    targets: text.
    output: what the model wrote.
    target: what the task makes of the targets: a label's number, all right answers, ...
    prediction: what it makes of the output.
  """

  example: Mapping[str, Any]
  inputs: str
  targets: str
  output: str
  target: Any
  prediction: Any

  @property
  def is_invalid(self) -> bool:
    """Whether the task has labels and the output is none of them."""
    return _is_number(_value(self.target)) and is_no_label(self.prediction)

  @property
  def is_correct(self) -> bool | None:
    """Whether the prediction is the target; None where a target is more than a label or a text."""
    prediction, target = _value(self.prediction), _value(self.target)
    if all(map(_is_number, (prediction, target))) or isinstance(target, str):
      return bool(prediction == target)
    return None


class TaskResult(NamedTuple):
  """What a task's evaluation found.

  Attributes:
    metrics: of the task, by name; none if its examples have no targets.
    answers: to its examples, in their order.
  """

  metrics: dict[str, float]
  answers: list[Answer]

  @property
  def num_invalid(self) -> int:
    """Answers that are no label of the task."""
    return sum(answer.is_invalid for answer in self.answers)


def write_predictions(
  directory: Location, results: Mapping[str, TaskResult], name: str
) -> Location:
  """Writes `<directory>/predictions/<name>/<task>.jsonl` for each task; returns their folder.

  Args:
    directory: such as MODEL_DIR.
    results: of each task.
    name: of the checkpoint, such as `step_200`.
  """
  folder = directory / "predictions" / name
  for task, result in results.items():
    write_lines(folder / f"{task.replace('/', '_')}.jsonl", map(_row, result.answers))
  return folder


def write_lines(path: Location, rows: Iterable[Any]) -> None:
  """Writes a JSON value a line; the file is there when it is whole."""
  files.make_directory(path.parent)
  with files.committed(path) as temporary, temporary.open("w", encoding="utf-8") as file:
    for row in rows:
      file.write(json.dumps(row, ensure_ascii=False) + "\n")


def in_parts(
  inputs: Sequence[Ids],
  answer: Callable[[Sequence[int]], Sequence[Any]],
  size: int,
  stop: Callable[[], bool],
) -> list[Any] | None:
  """Returns the answer to each input, asked for in parts of inputs of like length.

  Args:
    inputs: ids.
    answer: takes the numbers of some inputs, and returns an answer to each.
    size: of a part.
    stop: asked before each part; if it says so there is no result.
  """
  by_length = sorted(range(len(inputs)), key=lambda number: -len(inputs[number]))
  found: list[Any] = [None] * len(inputs)
  for start in range(0, len(by_length), size):
    if stop():
      return None
    part = by_length[start : start + size]
    for number, result in zip(part, answer(part), strict=True):
      found[number] = result
  return found


def cut(ids: list[int], length: int, *, keeps_eos: bool) -> list[int]:
  """Returns the first `length` ids; the last of them is EOS where the task keeps it."""
  if len(ids) <= length:
    return ids
  return [*ids[: length - 1], ids[-1]] if keeps_eos else ids[:length]


def _row(answer: Answer) -> dict[str, Any]:
  row = {
    name: plain(answer.example[name]) for name in sorted(answer.example) if _is_number_of(name)
  }
  row |= {"inputs": answer.inputs, "targets": answer.targets, "output": answer.output}
  row |= {"target": plain(answer.target), "prediction": plain(answer.prediction)}
  if answer.is_correct is not None:
    row["correct"] = answer.is_correct
  if answer.is_invalid:
    row["invalid"] = True
  return row


def _is_number_of(name: str) -> bool:
  """Whether a feature says which example of its data set it is."""
  return name == "idx" or name.startswith("idx/")


def plain(value: Any) -> Any:
  """Returns JSON for what tasks make of answers: NumPy's values as Python's, bytes as text."""
  if isinstance(value, Mapping):
    return {str(key): plain(inner) for key, inner in value.items()}
  if isinstance(value, bytes):
    return value.decode("utf-8", errors="replace")
  if hasattr(value, "tolist"):
    return plain(value.tolist())
  if isinstance(value, list | tuple):
    return [plain(inner) for inner in value]
  return value if isinstance(value, str | int | float | None) else str(value)


def is_no_label(found: Any) -> bool:
  """Whether what a task makes of a text is the number of no label."""
  value = _value(found)
  return bool(_is_number(value) and value == INVALID)


def _value(found: Any) -> Any:
  """Returns what is scored: tasks with groups have it beside the group."""
  return found["value"] if isinstance(found, Mapping) and "value" in found else found


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) or getattr(value, "shape", None) == ()
