# SPDX-License-Identifier: Apache-2.0
"""The mode `generate`: answers to prompts that are typed, piped, or given as arguments."""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence

import jax

from switch_t5.cli import asking, distributed, gin_setup
from switch_t5.cli.asking import CompilationClock
from switch_t5.cli.configurables import CONFIGURABLES
from switch_t5.cli.flags import CommandLine
from switch_t5.cli.infer_config import LoadConfig
from switch_t5.decoding.config import DecodingConfig
from switch_t5.errors import ConfigError, DataError, SwitchT5Error
from switch_t5.evaluation.fill_spans import fill_in
from switch_t5.inference.text_model import Answer, TextModel

SIGN = "> "
_PIPED_BATCH = 8
_PIPED_PART = 8  # batches that are read before they are answered
_TOLD_SECONDS = 0.5  # of compilation

Ask = Callable[[Sequence[str]], None]


def run(command_line: CommandLine) -> None:
  """Answers the prompts of the command line, or else those of the standard input."""
  configuration = gin_setup.load_command_line(command_line, CONFIGURABLES, "DecodingConfig")
  decoding: DecodingConfig = configuration.call("DecodingConfig")
  config: LoadConfig = configuration.call("LoadConfig", **asking.checkpoint_of(command_line))
  prompts = command_line.arguments[1:]
  for number, prompt in enumerate(prompts, start=1):
    _check_text(prompt, f"argument {number}")
  distributed.start(command_line, configuration)
  if not prompts and jax.process_count() > 1:
    raise ConfigError(
      "There is no prompt.",
      rule="all processes of a run are asked the same, and only one has this terminal",
      remedy='give the prompts as arguments: switch_t5 generate "TEXT" ...',
    )
  typed = not prompts and sys.stdin.isatty()
  model = asking.load(config, at_once=1 if prompts or typed else _PIPED_BATCH)
  with CompilationClock() as clock:
    conversation = _Conversation(model, decoding, clock, as_json=command_line.json)
    if prompts:
      conversation.ask(prompts, show_prompts=len(prompts) > 1)
    elif typed:
      converse(conversation.ask)
    else:
      for part in _piped(_PIPED_PART * model.batch_size):
        conversation.ask(part)


class _Conversation:
  """Asks a model; counts the prompts, from whose numbers samples follow."""

  def __init__(
    self, model: TextModel, decoding: DecodingConfig, clock: CompilationClock, *, as_json: bool
  ):
    self._model, self._decoding, self._clock, self._as_json = model, decoding, clock, as_json
    self._asked = 0

  def ask(self, prompts: Sequence[str], *, show_prompts: bool = False) -> None:
    """Prints the answers to some prompts."""
    first, self._asked = self._asked, self._asked + len(prompts)
    found = self._model.search(self._model.encode(prompts), self._decoding, first)
    if (seconds := self._clock.lap()) > _TOLD_SECONDS:
      asking.say(f"Compiled in {seconds:.1f} s; texts of like length need no more of it.")
    for prompt, generated in zip(prompts, found, strict=True):
      asking.require_numbers((score for _, score in generated), repr(prompt))
      answers = [Answer(self._model.vocabulary.decode(ids), score, ids) for ids, score in generated]
      if jax.process_index() == 0:
        print(
          _as_json(prompt, answers) if self._as_json else _as_lines(prompt, answers, show_prompts)
        )
        sys.stdout.flush()


def converse(ask: Ask) -> None:
  """Asks what is typed, until an empty line or the end; an error in a line does not end it."""
  with contextlib.suppress(ImportError):
    import readline  # noqa: F401 - `input` edits lines with it
  print("Type a text; an empty line ends.", file=sys.stderr)
  while True:
    try:
      prompt = input(SIGN)
    except EOFError:
      print()
      return
    if not prompt.strip():
      return
    try:
      _check_text(prompt, "what was typed")
      ask([prompt])
    except SwitchT5Error as error:
      print(error, file=sys.stderr)


def _piped(size: int) -> Iterator[list[str]]:
  """Yields the lines of the standard input, `size` at a time."""
  lines = enumerate(sys.stdin.buffer, start=1)
  empty = True
  while part := list(itertools.islice(lines, size)):
    empty = False
    yield [_decoded(line, number) for number, line in part]
  if empty:
    raise DataError("There is no prompt.", value="an empty standard input", remedy='give "TEXT"')


def _decoded(line: bytes, number: int) -> str:
  try:
    return line.rstrip(b"\r\n").decode("utf-8")
  except UnicodeDecodeError as error:
    raise _not_utf8(f"standard input, line {number} (byte {error.start} of it)") from None


def _check_text(text: str, place: str) -> None:
  """Refuses what Python could not decode and has kept as it was."""
  try:
    text.encode("utf-8")
  except UnicodeEncodeError:
    raise _not_utf8(f"{place}: {text!a}") from None


def _not_utf8(place: str) -> DataError:
  return DataError("A prompt is not UTF-8.", value=place, rule="text is UTF-8")


def _as_json(prompt: str, answers: Sequence[Answer]) -> str:
  found = [{"text": answer.text, "score": answer.score} for answer in answers]
  return json.dumps({"input": prompt, "answers": found}, ensure_ascii=False, allow_nan=False)


def _as_lines(prompt: str, answers: Sequence[Answer], show_prompt: bool) -> str:
  lines = [_printable(f"{SIGN}{prompt}")] if show_prompt else []
  for answer in answers:
    score = f"{answer.score:9.3f}  " if len(answers) > 1 else ""
    lines.append(score + _printable(answer.text))
    if filled := fill_in(prompt, answer.text):
      lines.append(f"{' ' * len(score)}  {_printable(filled)}")
  return "\n".join(lines)


def _printable(text: str) -> str:
  """Returns a text as one line that no terminal obeys: a model can write any byte."""
  return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
