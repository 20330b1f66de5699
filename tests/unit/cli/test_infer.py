# SPDX-License-Identifier: Apache-2.0
"""The mode infer: every text once, in its place, however the work is cut up."""

from __future__ import annotations

import gzip
import json
import os
import signal
from pathlib import Path

import pytest
import runs
import seqio

from switch_t5.cli import infer
from switch_t5.cli.infer_config import LoadConfig
from switch_t5.cli.infer_output import OutputFile
from switch_t5.data.vocabulary import EXTRA_IDS, embedded_vocabulary_path
from switch_t5.decoding.config import DecodingConfig

# Of two buckets of lengths.
TEXTS = [f"{'word ' * (7 * (number % 2))}number {number}" for number in range(24)]
BATCH = 2
MAX_TOKENS = 4
TASK = "infer_test_task"


pytestmark = pytest.mark.usefixtures("loaded_once")


@pytest.fixture
def model(run_dir, loaded_once):
  config = LoadConfig(str(run_dir), batch_size=BATCH)
  return config.load(config.find(), at_once=1)


@pytest.fixture(scope="module")
def task(run_dir):
  """A task of seqio's registries with eight examples."""
  register(TASK, embedded_vocabulary_path())
  yield TASK
  seqio.TaskRegistry.remove(TASK)


def register(name, vocabulary_path):
  rows = [{"inputs": f"text {n}", "targets": f"answer {n}"} for n in range(8)]

  def examples(split, shuffle_files, seed=None):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices({k: [row[k] for row in rows] for k in rows[0]})

  vocabulary = seqio.SentencePieceVocabulary(vocabulary_path, EXTRA_IDS)
  seqio.TaskRegistry.add(
    name,
    source=seqio.FunctionDataSource(examples, splits=["validation"]),
    preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
    output_features={k: seqio.Feature(vocabulary, add_eos=True) for k in rows[0]},
  )


def flags(run_dir, tmp_path, **given):
  """Returns the flags of a run; a name with a dot is a parameter, any other a macro."""
  values = {
    "CHECKPOINT_PATH": str(run_dir),
    "OUTPUT_FILE": str(tmp_path / "out.jsonl"),
    "INPUT_FILE": str(tmp_path / "in.txt"),
    "BATCH_SIZE": BATCH,
    "DecodingConfig.max_tokens": MAX_TOKENS,
  } | given
  return [
    "--gin_file=runs/infer.gin",
    *(f"--gin.{name}={value!r}" for name, value in values.items()),
  ]


def command(*argv):
  """Runs infer, which must succeed; returns what it says."""
  code, output, errors = runs.run_here("infer", *argv)
  assert code == 0, output + errors
  return output


def refused(*argv, code=3):
  found, output, errors = runs.run_here("infer", *argv)
  assert (found, output) == (code, "")
  assert "Traceback" not in errors
  return errors


def rows_of(path):
  return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_every_text_has_its_answer_in_its_place(run_dir, model, tmp_path):
  (tmp_path / "in.txt").write_text("\n".join(TEXTS))
  output = command(*flags(run_dir, tmp_path))
  assert "24 lines answered in" in output and "tokens/s" in output
  assert f"Done: all 24 lines are in {tmp_path / 'out.jsonl'}." in output
  expected = model.answers(TEXTS, max_tokens=MAX_TOKENS)
  rows = rows_of(tmp_path / "out.jsonl")
  assert rows == [
    {"index": number, "inputs": text, "prediction": best.text, "score": best.score}
    for number, (text, (best,)) in enumerate(zip(TEXTS, expected, strict=True))
  ]
  assert len({row["prediction"] for row in rows}) > 1
  before = (tmp_path / "out.jsonl").stat().st_mtime_ns
  again = command(*flags(run_dir, tmp_path))
  assert again == f"Done: all 24 lines are in {tmp_path / 'out.jsonl'}.\n"
  assert (tmp_path / "out.jsonl").stat().st_mtime_ns == before


def test_jobs_and_stops_change_nothing_also_in_samples(run_dir, tmp_path, monkeypatch):
  with gzip.open(tmp_path / "in.jsonl.gz", "wt") as file:
    file.writelines(json.dumps({"inputs": text}) + "\n\n" for text in TEXTS)
  sampling = {
    "INPUT_FILE": str(tmp_path / "in.jsonl.gz"),
    "DecodingConfig.temperature": 1.0,
    "DecodingConfig.num_return": 2,
  }
  (tmp_path / "whole").mkdir()
  monkeypatch.setattr(infer, "_PART", 3)
  command(*flags(run_dir, tmp_path / "whole", **sampling))
  whole = (tmp_path / "whole" / "out.jsonl").read_bytes()
  rows = rows_of(tmp_path / "whole" / "out.jsonl")
  assert all(len(row["answers"]) == 2 for row in rows)
  assert all(row["answers"][0]["prediction"] == row["prediction"] for row in rows)
  argv = flags(run_dir, tmp_path, **sampling)
  assert "0 of 3 job(s) done." in command(*argv, "--dry_run", "--job=0/3")
  append = OutputFile.append

  def append_and_be_stopped(self, rows):
    append(self, rows)
    os.kill(os.getpid(), signal.SIGTERM)

  with monkeypatch.context() as patch:
    patch.setattr(OutputFile, "append", append_and_be_stopped)
    code, _, errors = runs.run_here("infer", *argv, "--job=1/3")
  assert code == 75 and "Stopped by SIGTERM after 6 of 8 lines." in errors
  said = command(*argv, "--dry_run", "--job=0/3")
  assert f"{tmp_path / 'out.jsonl'}-00001-of-00003: 6 of 8 lines" in said
  for job in (2, 1):
    assert "job(s) done." in command(*argv, f"--job={job}/3")
  assert f"All 3 jobs are done: cat {tmp_path / 'out.jsonl'}-*-of-00003" in command(
    *argv, "--job=0/3"
  )
  parts = sorted(tmp_path.glob("out.jsonl-*-of-00003"))
  assert b"".join(part.read_bytes() for part in parts) == whole


def test_longer_inputs_are_cut_and_counted(run_dir, model, tmp_path):
  (tmp_path / "in.txt").write_text("a\n" + "long " * 50)
  output = command(*flags(run_dir, tmp_path, TASK_FEATURE_LENGTHS={"inputs": 6}))
  assert "The inputs of 1 of them were longer than 6 tokens and were cut." in output
  ids = [*model.vocabulary.encode("long " * 50)[:5], model.vocabulary.eos_id]
  (best,) = model.generate_ids([ids], DecodingConfig(max_tokens=MAX_TOKENS))
  assert rows_of(tmp_path / "out.jsonl")[1]["prediction"] == model.vocabulary.decode(best.ids)


def test_a_tasks_examples_are_answered_beside_their_targets(run_dir, model, task, tmp_path):
  given = {"INPUT_FILE": None, "MIXTURE_OR_TASK_NAME": task}
  command(*flags(run_dir, tmp_path, **given))
  rows = rows_of(tmp_path / "out.jsonl")
  assert [(row["index"], row["inputs"], row["targets"]) for row in rows] == [
    (n, f"text {n}", f"answer {n}") for n in range(8)
  ]
  expected = model.generate([row["inputs"] for row in rows], max_tokens=MAX_TOKENS)
  assert [row["prediction"] for row in rows] == expected
  seqio.MixtureRegistry.add("infer_test_mixture", [task], default_rate=1.0)
  try:
    given["MIXTURE_OR_TASK_NAME"] = "infer_test_mixture"
    path = str(tmp_path / "mixture.jsonl")
    command(*flags(run_dir, tmp_path, **given, OUTPUT_FILE=path))
  finally:
    seqio.MixtureRegistry.remove("infer_test_mixture")
  mixed = rows_of(tmp_path / "mixture.jsonl")
  assert [row.pop("task") for row in mixed] == [task] * 8
  assert mixed == rows


def test_an_unknown_split_task_or_vocabulary_is_explained(run_dir, task, tmp_path):
  given = {"INPUT_FILE": None, "MIXTURE_OR_TASK_NAME": task}
  errors = refused(*flags(run_dir, tmp_path, **given, SPLIT="validatoin"))
  assert "Did you mean validation?" in errors
  misspelt = given | {"MIXTURE_OR_TASK_NAME": "super_glue_bolq_v102"}
  errors = refused(*flags(run_dir, tmp_path, **misspelt), code=2)
  assert "Did you mean super_glue_boolq_v102" in errors
  other = tmp_path / "other.model"
  other.write_bytes(Path(embedded_vocabulary_path()).read_bytes() + b"\x1a\x00")
  register("infer_test_other", str(other))
  try:
    other_task = given | {"MIXTURE_OR_TASK_NAME": "infer_test_other"}
    errors = refused(*flags(run_dir, tmp_path, **other_task))
    assert "another vocabulary" in errors
  finally:
    seqio.TaskRegistry.remove("infer_test_other")
  assert not list(tmp_path.glob("out*"))


def test_another_input_checkpoint_or_decoding_is_refused(run_dir, tmp_path):
  (tmp_path / "in.txt").write_text("a\nb\n")
  command(*flags(run_dir, tmp_path))
  errors = refused(*flags(run_dir, tmp_path, **{"DecodingConfig.num_beams": 2}))
  assert "DecodingConfig.num_beams: 1, now 2" in errors
  (tmp_path / "in.txt").write_text("a\nc\n")
  errors = refused(*flags(run_dir, tmp_path))
  assert "INPUT_FILE, sha256" in errors and "INPUT_FILE, bytes" not in errors
  # With another batch size a run goes on.
  (tmp_path / "in.txt").write_text("a\nb\n")
  assert "Done" in command(*flags(run_dir, tmp_path, BATCH_SIZE=4))


WRONG_INPUTS = {
  "missing": (None, "cannot be read"),
  "empty": (b"", "empty"),
  "not UTF-8": (b"a\n\xff\n", "line 2"),
  "no text": (bytes(range(256)) * 8, "not UTF-8"),
}


@pytest.mark.parametrize(("content", "said"), WRONG_INPUTS.values(), ids=WRONG_INPUTS)
def test_a_wrong_input_file_is_explained_and_nothing_is_written(run_dir, tmp_path, content, said):
  if content is not None:
    (tmp_path / "in.txt").write_bytes(content)
  errors = refused(*flags(run_dir, tmp_path))
  assert said in errors and str(tmp_path / "in.txt") in errors
  assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("line", ['{"inputs": "a"', '{"input": "a"}', '{"inputs": ["a"]}'])
def test_a_broken_json_line_is_named(run_dir, tmp_path, line):
  path = tmp_path / "in.jsonl"
  path.write_text(f'{{"inputs": "fine"}}\n{line}\n')
  assert f"{path}, line 2" in refused(*flags(run_dir, tmp_path, INPUT_FILE=str(path)))


@pytest.mark.parametrize(
  ("given", "said"),
  [
    ({"MIXTURE_OR_TASK_NAME": "super_glue_cb_v102"}, "one of the two"),
    ({"INPUT_FILE": None}, "one of the two"),
    ({"TASK_FEATURE_LENGTHS": {"targets": 3}}, "TASK_FEATURE_LENGTHS"),
    ({"TASK_FEATURE_LENGTHS": {"inputs": 0}}, "TASK_FEATURE_LENGTHS"),
    ({"OUTPUT_FILE": "hdfs://cluster/out.jsonl"}, "hdfs://cluster/out.jsonl"),
    ({"BATCH_SIZE": 0}, "LoadConfig.batch_size"),
    ({"LoadConfig.dtype": "float16"}, "LoadConfig.dtype"),
  ],
)
def test_a_wrong_configuration_is_explained(run_dir, tmp_path, given, said):
  assert said in refused(*flags(run_dir, tmp_path, **given), code=2)


def test_nothing_is_overwritten(run_dir, tmp_path):
  (tmp_path / "in.txt").write_text("a\n")
  errors = refused(*flags(run_dir, tmp_path, OUTPUT_FILE=str(tmp_path / "in.txt")))
  assert "not of such a run" in errors
  assert (tmp_path / "in.txt").read_text() == "a\n"
