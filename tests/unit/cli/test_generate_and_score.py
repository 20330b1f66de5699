# SPDX-License-Identifier: Apache-2.0
"""The modes generate and score: prompts from everywhere, answers as the model gives them."""

from __future__ import annotations

import io
import json
import sys

import numpy as np
import pytest
import runs
import stored

from switch_t5.cli import asking, generate
from switch_t5.cli.flags import parse
from switch_t5.cli.infer_config import LoadConfig
from switch_t5.errors import DataError
from switch_t5.inference.text_model import Answer

PROMPTS = ["one <extra_id_0> two", "three", ""]
SHORT = "--gin.DecodingConfig.max_tokens=5"


pytestmark = pytest.mark.usefixtures("loaded_once")


class Terminal(io.TextIOWrapper):
  """A standard input that says it is one."""

  def isatty(self) -> bool:
    return True


@pytest.fixture
def model(run_dir, loaded_once):
  config = LoadConfig(str(run_dir), batch_size=1)
  return config.load(config.find(), at_once=1)


def ask(monkeypatch, run_dir, *argv, typed=None, piped=None):
  """Runs generate; returns exit code, standard output and error."""
  if typed is not None:
    monkeypatch.setattr(sys, "stdin", Terminal(io.BytesIO(typed.encode())))
  if piped is not None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(piped)))
  return runs.run_here("generate", *argv, f"--from={run_dir}", SHORT)


def test_arguments_are_answered_as_the_model_answers(monkeypatch, run_dir, model):
  code, output, errors = ask(monkeypatch, run_dir, *PROMPTS, "--json")
  assert code == 0, errors
  found = [json.loads(line) for line in output.splitlines()]
  expected = model.answers(PROMPTS, max_tokens=5)
  assert found == [
    {"input": prompt, "answers": [{"text": best.text, "score": best.score}]}
    for prompt, (best,) in zip(PROMPTS, expected, strict=True)
  ]
  assert f"{run_dir}/checkpoints/checkpoint_7: loaded in" in errors
  code, output, _ = ask(monkeypatch, run_dir, PROMPTS[1])
  assert (code, output.splitlines()[0]) == (0, generate._printable(expected[1][0].text))


def test_several_answers_come_best_first_with_their_scores(monkeypatch, run_dir):
  beams = [f"--gin.DecodingConfig.{name}=2" for name in ("num_beams", "num_return")]
  code, output, errors = ask(monkeypatch, run_dir, PROMPTS[1], *beams)
  assert code == 0, errors
  scores = [float(line.split()[0]) for line in output.splitlines()]
  assert len(scores) == 2 and scores[0] >= scores[1]


def test_a_pipe_has_a_prompt_a_line(monkeypatch, run_dir, model):
  flags = ["--json", "--gin.LoadConfig.batch_size=1"]
  code, output, _ = ask(monkeypatch, run_dir, *flags, piped="\n".join(PROMPTS).encode() + b"\n")
  assert code == 0
  texts = [json.loads(line)["answers"][0]["text"] for line in output.splitlines()]
  assert texts == model.generate(PROMPTS, max_tokens=5)


@pytest.mark.parametrize(
  ("piped", "said"), [(b"", "no prompt"), (b"a\n\xff\n", "standard input, line 2 (byte 0 of it)")]
)
def test_a_pipe_that_is_wrong_is_explained(monkeypatch, run_dir, piped, said):
  code, _, errors = ask(monkeypatch, run_dir, piped=piped)
  assert code == 3
  assert said in errors and "Traceback" not in errors


def test_a_conversation_ends_with_an_empty_line(monkeypatch, run_dir, model):
  code, output, _ = ask(monkeypatch, run_dir, typed=f"{PROMPTS[1]}\n\nnot asked any more\n")
  assert code == 0
  (answer,) = model.generate([PROMPTS[1]], max_tokens=5)
  assert output == f"> {generate._printable(answer)}\n> "


def test_a_conversation_goes_on_after_an_error(monkeypatch, capsys):
  asked = []

  def failing(prompts):
    asked.extend(prompts)
    if len(asked) == 1:
      raise DataError("Not this one.")

  monkeypatch.setattr(
    sys, "stdin", Terminal(io.BytesIO(b"one\n\xff\ntwo\n"), errors="surrogateescape")
  )
  generate.converse(failing)
  assert asked == ["one", "two"]
  errors = capsys.readouterr().err
  assert "Not this one." in errors and "not UTF-8" in errors


def test_spans_are_shown_in_their_text():
  prompt = "The <extra_id_0> sat <extra_id_1> the mat. <extra_id_2>"
  answer = Answer("<extra_id_0> cat <extra_id_1> on\x1b[2J", -1.0, [])
  lines = generate._as_lines(prompt, [answer], show_prompt=True).splitlines()
  assert lines == [
    f"> {prompt}",
    "<extra_id_0> cat <extra_id_1> on\\x1b[2J",
    "  The [cat] sat [on\\x1b[2J] the mat. <extra_id_2>",
  ]
  assert generate._as_lines("no gap", [answer], show_prompt=False).count("\n") == 0


def test_scores_are_the_models(run_dir, model, tmp_path):
  inputs, targets = ["a", "b c", "d"], ["one two", "", "three"]
  rows = [{"inputs": i, "targets": t} for i, t in zip(inputs, targets, strict=True)]
  path, to = tmp_path / "pairs.jsonl", tmp_path / "scores.jsonl"
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  size = "--gin.LoadConfig.batch_size=1"
  code, output, errors = runs.run_here(
    "score", str(path), f"--from={run_dir}", f"--to={to}", "--json", size
  )
  assert code == 0, errors
  found = json.loads(output)
  lines = found.pop("scores")
  assert [json.loads(line) for line in to.read_text().splitlines()] == lines
  expected = model.score(inputs, targets)
  tokens = [len(model.vocabulary.encode(target)) + 1 for target in targets]
  assert [line["log_probability"] for line in lines] == expected
  assert [line["tokens"] for line in lines] == tokens
  assert [line["mean_log_probability"] for line in lines] == list(np.divide(expected, tokens))
  assert found == pytest.approx(
    {
      "log_probability": sum(expected),
      "tokens": sum(tokens),
      "mean_log_probability": sum(expected) / sum(tokens),
    }
  )
  code, output, _ = runs.run_here("score", str(path), f"--from={run_dir}", size)
  assert code == 0
  assert output.splitlines()[-1].endswith("all 3 lines") and len(output.splitlines()) == 5
  code, _, errors = runs.run_here("score", str(path), f"--from={run_dir}", f"--to={to}")
  assert (code, "nothing is overwritten" in errors) == (2, True)


WRONG = {
  "no --from": (["generate", "a"], 2, "--from is missing"),
  "no checkpoint": (["generate", "a", "--from=nowhere"], 3, "no checkpoint here"),
  "not UTF-8": (["generate", "a\udcff", "--from=nowhere"], 3, "argument 1"),
  "beams and sampling": (
    [
      "generate",
      "a",
      "--from=x",
      "--gin.DecodingConfig.num_beams=2",
      "--gin.DecodingConfig.temperature=1.0",
    ],
    2,
    "num_beams",
  ),
  "no file": (["score", "--from=x"], 2, "takes a file"),
  "no .jsonl": (["score", "a.txt", "--from=x"], 3, "a .jsonl"),
  "a file that is not there": (["score", "a.jsonl", "--from=x"], 3, "cannot be read"),
  "--to elsewhere": (["generate", "a", "--to=x"], 2, "does not take --to"),
}


@pytest.mark.parametrize(("argv", "code", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_command_is_explained(argv, code, said, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  found, output, errors = runs.run_here(*argv)
  assert (found, output) == (code, "")
  assert said in errors


def test_a_broken_line_is_named_before_anything_is_loaded(tmp_path):
  path = tmp_path / "pairs.jsonl"
  path.write_text('{"inputs": "a", "targets": "b"}\n{"inputs": "a"}\n')
  code, output, errors = runs.run_here("score", str(path), "--from=nowhere")
  assert (code, output) == (3, "")
  assert f"{path}, line 2" in errors and 'no "targets"' in errors


def test_a_checkpoint_without_a_vocabulary_takes_it_from_the_flag(run_dir, tmp_path):
  exported = tmp_path / "t5x"
  argv = ["convert", "export", f"--from={run_dir}", f"--to={exported}", "--format=t5x"]
  assert runs.run_here(*argv)[0] == 0
  code, _, errors = runs.run_here("generate", "a", f"--from={exported}")
  assert code == 3 and "--vocabulary_path=FILE" in errors
  flags = [f"--from={exported}", f"--vocabulary_path={run_dir / 'spiece.model'}"]
  config = LoadConfig(**asking.checkpoint_of(parse(["generate", "a", *flags])))
  assert config.find().vocabulary.path == str(run_dir / "spiece.model")


def test_a_model_that_gives_no_numbers_is_refused(tmp_path):
  broken = stored.checkpoint(stored.small(), adafactor=False)
  broken.arrays["target/decoder/decoder_norm/scale"] = stored.array(np.full(16, np.nan, np.float32))
  model_dir = stored.write_run(tmp_path / "model", broken)
  path = tmp_path / "pairs.jsonl"
  path.write_text('{"inputs": "a", "targets": "b"}\n')
  size = "--gin.LoadConfig.batch_size=1"
  code, output, errors = runs.run_here("score", str(path), f"--from={model_dir}", "--json", size)
  assert (code, output) == (3, "")
  assert f"nan for {path}, example 1" in errors
