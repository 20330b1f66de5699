# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning from one end to the other: parameters of another run, answers, the best checkpoint."""

from __future__ import annotations

import json
import math
import signal

import pytest
import runs

from switch_t5.checkpoint.best import BEST, read_best
from switch_t5.inference.text_model import TextModel
from switch_t5.metrics.writer import METRICS_FILE, read_metrics

TASK = "sentences_to_words"
ACCURACY = f"eval/{TASK}/accuracy"
CROSS_ENTROPY = f"eval/{TASK}/cross_entropy"
STEPS = 6
# A task of a user's own, as a module given as --import registers it.
MODULE = f"""
import numpy as np
import seqio
import tensorflow as tf
from switch_t5.data.vocabulary import embedded_vocabulary_path

WORDS = ("yes", "no")

def examples(split, shuffle_files, seed=None):
  numbers = np.arange(16 if split == "train" else 5)
  return tf.data.Dataset.from_tensor_slices({{
    "inputs": [f"is it number {{n}}?" for n in numbers],
    "targets": [WORDS[n % 2] for n in numbers],
    "idx": numbers,
  }})

def label(text, example=None, is_target=False):
  return WORDS.index(text) if text in WORDS else -1

def accuracy(targets, predictions):
  return {{"accuracy": 100.0 * float(np.mean([t == p for t, p in zip(targets, predictions)]))}}

feature = seqio.Feature(seqio.SentencePieceVocabulary(str(embedded_vocabulary_path()), 100), add_eos=True)
seqio.TaskRegistry.add(
  {TASK!r},
  source=seqio.FunctionDataSource(examples, splits=["train", "validation"]),
  preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
  output_features={{"inputs": feature, "targets": feature}},
  postprocess_fn=label,
  metric_fns=[accuracy],
)
"""

# TensorFlow's own warnings.
pytestmark = [pytest.mark.smoke, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Holds a run of a few steps in model/, which starts from parameters in pretrained/."""
  folder = tmp_path_factory.mktemp("finetune")
  (folder / "words_task.py").write_text(MODULE)
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(folder))
    patch.chdir(folder)
    pretrained = runs.tiny_flags(folder, MODEL_DIR=str(folder / "pretrained"), TRAIN_STEPS=1)
    code, output, errors = runs.run_here("train", *pretrained)
    assert code == 0, output + errors
    code, output, errors = runs.run_here("train", *flags(folder))
    assert code == 0, output + errors
    (folder / "output.txt").write_text(output + errors)
    yield folder
    import seqio

    seqio.TaskRegistry.remove(TASK)


def flags(folder, *more, **macros) -> list[str]:
  """Returns the flags of fine-tuning."""
  given = {
    "MIXTURE_OR_TASK_NAME": TASK,
    "INITIAL_CHECKPOINT_PATH": str(folder / "pretrained"),
    "TRAIN_STEPS": STEPS,
    "CHECKPOINT_PERIOD": 3,
    "EVAL_PERIOD": 2,
    "BEST_METRIC": CROSS_ENTROPY,
  }
  return [
    *runs.tiny_flags(folder, **given | macros),
    "--import=words_task",
    "--gin_bindings=train.task_evaluation = @TaskEvaluation()",
    "--gin_bindings=train.best_metric = %BEST_METRIC",
    "--gin_bindings=train.checkpoints_kept = 1",
    *more,
  ]


def test_it_starts_from_the_other_runs_parameters_and_says_what_it_evaluates(folder):
  output = (folder / "output.txt").read_text()
  assert "parameters are taken from" in output
  assert f"Evaluation: 5 examples of {TASK}" in output
  assert "Tasks at step 2" in output and "answers are no label" in output


def test_each_evaluation_has_the_tasks_own_metrics(folder):
  rows = read_metrics(folder / "model" / METRICS_FILE)
  measured = [int(row["step"]) for row in rows if ACCURACY in row]
  assert measured == [2, 4, 6] == [int(row["step"]) for row in rows if CROSS_ENTROPY in row]


def test_answers_are_written_line_by_line(folder):
  lines = (folder / "model" / "predictions" / "step_4" / f"{TASK}.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  assert [row["idx"] for row in rows] == list(range(5))
  assert [row["targets"] for row in rows] == ["yes", "no", "yes", "no", "yes"]
  assert all({"inputs", "output", "target", "prediction", "correct"} <= row.keys() for row in rows)


def test_the_best_checkpoint_is_kept_and_named(folder):
  rows = read_metrics(folder / "model" / METRICS_FILE)
  values = {int(row["step"]): row[CROSS_ENTROPY] for row in rows if CROSS_ENTROPY in row}
  best = read_best(folder / "model")
  assert best.step == min(values, key=values.get)  # the loss is the better the smaller it is
  assert best == (best.step, CROSS_ENTROPY, values[best.step])
  code, output, _ = runs.run_here("checkpoint", "ls", str(folder / "model"), "--json")
  assert code == 0
  listed = {info["step"]: info["best"] for info in json.loads(output)}
  assert {STEPS, best.step} <= listed.keys() and 2 not in listed
  assert [step for step, is_best in listed.items() if is_best] == [best.step]
  _, output, _ = runs.run_here("checkpoint", "ls", str(folder / "model"))
  assert output.count("best: ") == 1 and CROSS_ENTROPY in output


def test_a_resumed_run_knows_the_best_so_far_also_by_another_metric(folder):
  (folder / "model" / BEST).unlink()  # as one killed before it was written
  more = flags(folder, TRAIN_STEPS=STEPS + 1, EVAL_PERIOD=100, BEST_METRIC=ACCURACY)
  code, output, errors = runs.run_here("train", *more)
  assert code == 0, output + errors
  best = read_best(folder / "model")
  assert best.metric == ACCURACY and not math.isnan(best.value)


def test_an_unknown_metric_is_refused_before_anything_is_written(folder, tmp_path):
  model = tmp_path / "model"
  more = flags(folder, BEST_METRIC=f"eval/{TASK}/acuracy", MODEL_DIR=str(model))
  code, _, errors = runs.run_here("train", *more)
  assert code == 2
  assert ACCURACY in errors and CROSS_ENTROPY in errors
  assert not model.exists()


def test_eval_of_all_checkpoints_is_a_table_and_of_one_what_training_measured(folder, tmp_path):
  output_dir = f"--gin.evaluate.output_dir='{tmp_path}'"
  every = ["--gin.evaluate.checkpoint_step='all'", output_dir]
  code, output, errors = runs.run_here("eval", *flags(folder, *every), "--json")
  assert code == 0, errors
  rows = json.loads(output)
  steps = [row["step"] for row in rows]
  assert steps == sorted(steps) and len(steps) >= 2
  assert all({ACCURACY, CROSS_ENTROPY} <= row.keys() for row in rows)
  written = {row["step"]: row for row in read_metrics(folder / "model" / METRICS_FILE)}
  assert rows[0][ACCURACY] == written[steps[0]][ACCURACY]
  assert [row["step"] for row in read_metrics(tmp_path / "eval" / METRICS_FILE)] == steps
  predictions = {path.name for path in (tmp_path / "predictions").iterdir()}
  assert predictions == {f"step_{step}" for step in steps}


def test_eval_answers_checkpoints_at_other_paths_without_the_held_out_text(folder, tmp_path):
  paths = [str(folder / "pretrained"), str(folder / "model")]
  more = [
    f"--gin.evaluate.checkpoint_paths={paths}",
    "--gin.evaluate.held_out=False",
    f"--gin.evaluate.output_dir='{tmp_path}'",
  ]
  code, output, errors = runs.run_here("eval", *flags(folder, *more))
  assert code == 0, errors
  assert output.count("(switch_t5)") == 4  # said with its answers, and in the table
  assert f"{TASK}/accuracy" in output and "cross_entropy" not in output


def test_two_processes_answer_as_one_does_and_write_once(folder, tmp_path):
  more = ["--gin.evaluate.held_out=False", f"--gin.evaluate.output_dir='{tmp_path}'"]
  given = flags(folder, *more, MESH_SHAPE=(2, 1, 1))
  outputs = runs.on_two_processes("eval", *given, "--emulate_devices=1", cwd=folder)
  assert [output.count(f"{TASK}  accuracy") for output in outputs] == [1, 0]
  (newest,) = (path.name for path in (tmp_path / "predictions").iterdir())
  got, want = (
    (model / "predictions" / newest / f"{TASK}.jsonl").read_text().splitlines()
    for model in (tmp_path, folder / "model")
  )
  assert [json.loads(row) for row in got] == [json.loads(row) for row in want]


def test_a_signal_ends_the_answering_and_the_next_run_answers_again(folder, tmp_path, monkeypatch):
  answered = []

  def interrupted(model, batch, *more):
    signal.raise_signal(signal.SIGTERM)
    answered.append(batch)
    return search(model, batch, *more)

  search = TextModel.search
  monkeypatch.setattr(TextModel, "search", interrupted)
  macros = {"MODEL_DIR": str(tmp_path / "model"), "TRAIN_STEPS": 4, "BEST_METRIC": None}
  more = ["--gin.TaskEvaluation.split='train'", "--gin.TaskEvaluation.batch_size=1"]
  code, output, errors = runs.run_here("train", *flags(folder, *more, **macros))
  assert code == 75, output + errors
  assert "The tasks' evaluation at step 2 was not finished." in output + errors
  assert "Stopped by SIGTERM at step 2 of 4; everything is saved." in errors
  assert len(answered) == 1 and not (tmp_path / "model" / "predictions").exists()
  monkeypatch.setattr(TextModel, "search", search)
  code, output, errors = runs.run_here("train", *flags(folder, *more, **macros))
  assert code == 0, output + errors
  assert "Tasks at step 4" in output + errors


def test_a_checkpoint_goes_on_with_its_optimizer_in_a_new_folder(folder, tmp_path):
  more = [
    "--gin.InitialCheckpoint.restore_optimizer=True",
    "--gin_bindings=train.task_evaluation = None",
  ]
  code, output, errors = runs.run_here(
    "train", *flags(folder, *more, MODEL_DIR=str(tmp_path / "model"), TRAIN_STEPS=2)
  )
  assert code == 0, output + errors
  assert "Going on from step 1" in output
  assert list(runs.losses(tmp_path / "model")) == [2]
