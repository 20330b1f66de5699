# SPDX-License-Identifier: Apache-2.0
"""A run on a mixture of text and examples, from caches: stopped and resumed it is the same run."""

from __future__ import annotations

import pytest
import runs

pytestmark = [pytest.mark.smoke, pytest.mark.filterwarnings("ignore")]  # TensorFlow's own

MODULE = """
import seqio
import tensorflow as tf

from switch_t5.data import tasks, vocabulary


def questions(split, shuffle_files, seed=None):
  texts = [f"Question {number}?" for number in range(60 if split == "train" else 8)]
  return tf.data.Dataset.from_tensor_slices({"inputs": texts, "targets": texts})


path = vocabulary.embedded_vocabulary_path()
feature = seqio.Feature(seqio.SentencePieceVocabulary(path, extra_ids=100), add_eos=True)
seqio.TaskRegistry.add(
  "questions",
  source=seqio.FunctionDataSource(questions, splits=["train", "validation"]),
  preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
  output_features={"inputs": feature, "targets": feature},
)
tasks.add_mixture(
  tasks.Mixture("text_and_questions", ("text_span_corruption", "questions"), (3.0, 1.0))
)
"""


@pytest.fixture(scope="module", autouse=True)
def module(tmp_path_factory):
  folder = tmp_path_factory.mktemp("module")
  (folder / "text_and_questions.py").write_text(MODULE)
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(folder))
    yield


def run(mode, folder, **macros):
  given = {"MIXTURE_OR_TASK_NAME": "text_and_questions", "EVAL_PERIOD": 4, "CHECKPOINT_PERIOD": 2}
  flags = runs.tiny_flags(folder, **(given | macros))
  code, output, errors = runs.run_here(mode, "--import=text_and_questions", *flags)
  assert code == 0, output + errors
  return output


def test_two_steps_and_two_more_are_four(tmp_path):
  cached = run("cache", tmp_path / "one")
  assert "questions" in cached and "60 documents" in cached and "8 documents" in cached
  output = run("train", tmp_path / "one", TRAIN_STEPS=4)
  assert "75.0% text_span_corruption (" in output and "25.0% questions (60 examples)" in output
  run("train", tmp_path / "two", TRAIN_STEPS=2)
  assert "Resuming from step 2" in run("train", tmp_path / "two", TRAIN_STEPS=4)
  one, two = (tmp_path / name / "model" for name in ("one", "two"))
  assert runs.losses(one) == runs.losses(two)
  assert runs.differing(runs.arrays(one, 4), runs.arrays(two, 4)) == []
  saved = (one / "run.json").read_text()
  assert '"source of questions"' in saved and '"rate": 3.0' in saved


def test_a_task_of_seqio_alone_is_read_from_a_cache(tmp_path):
  output = run("train", tmp_path, MIXTURE_OR_TASK_NAME="questions", TRAIN_STEPS=2)
  assert "60 examples an epoch" in output
