# SPDX-License-Identifier: Apache-2.0
"""SuperGLUE from its published files to scores and submission, for answers that are known."""

from __future__ import annotations

import json
import types

import pytest
import superglue_form

from switch_t5.data.downstream import registry
from switch_t5.data.vocabulary import Vocabulary, embedded_vocabulary_path
from switch_t5.decoding.config import DecodingConfig
from switch_t5.evaluation.submission import write_submission
from switch_t5.scores.superglue import superglue_average

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow's own

MIXTURE = "super_glue_v102_proportional"
LENGTHS = {"inputs": 256, "targets": 32}
VOCABULARY = Vocabulary(embedded_vocabulary_path())


class Answers:
  """A model that always gives one text, or the right one where there is none."""

  batch_size = 4

  def __init__(self, evaluation, text=None):
    self.right = {}
    for task in evaluation._tasks:
      texts = zip(task._ids["inputs"], task._texts["targets"], task._targets, strict=True)
      for ids, right, target in texts:
        # WSC's targets name a referent; where it is not the right one, another text is right.
        self.right[tuple(ids)] = text or ("nobody" if "wsc" in task.name and not target else right)

  def generate_ids(self, inputs, decoding):
    return [types.SimpleNamespace(ids=VOCABULARY.encode(self.right[tuple(ids)])) for ids in inputs]


@pytest.fixture(scope="module")
def open_split(tmp_path_factory):
  registry.register(MIXTURE, task_data_dir=superglue_form.write(tmp_path_factory.mktemp("files")))
  from switch_t5.evaluation.seqio_evaluation import SeqioEvaluation, evaluated_tasks

  return lambda split: SeqioEvaluation(evaluated_tasks(MIXTURE, split), LENGTHS, split=split)


def metrics(results):
  return {task: result.metrics for task, result in results.items()}


def test_right_answers_have_full_scores_and_their_average(open_split):
  evaluation = open_split("validation")
  results = evaluation.evaluate(Answers(evaluation), DecodingConfig())
  scores = metrics(results)
  # The two queries of ReCoRD have the same inputs and other answers: one of them can be right.
  assert scores.pop("super_glue_record_v102") == {"em": 50.0, "f1": 50.0}
  assert all(value == 100.0 for found in scores.values() for value in found.values())
  assert superglue_average(metrics(results)) == (7 * 100.0 + 50.0) / 8
  assert evaluation.metric_names() == {
    task: list(found) for task, found in metrics(results).items()
  }
  assert not any(result.num_invalid for result in results.values())


def test_rubbish_has_a_score_and_is_counted(open_split):
  evaluation = open_split("validation")
  results = evaluation.evaluate(Answers(evaluation, "<extra_id_0>"), DecodingConfig())
  assert 0.0 <= superglue_average(metrics(results)) < 50.0
  boolq = results["super_glue_boolq_v102"]
  assert boolq.num_invalid == len(boolq.answers) > 0


def test_the_test_split_is_answered_and_submitted_without_scores(open_split, tmp_path):
  evaluation = open_split("test")
  results = evaluation.evaluate(Answers(evaluation, "True"), DecodingConfig())
  assert not any(found for task, found in metrics(results).items() if task.startswith("super_glue"))
  folder = write_submission(tmp_path, results, "step_1")
  assert {path.stem for path in folder.iterdir()} >= {"BoolQ", "MultiRC", "ReCoRD", "AX-b", "AX-g"}
  boolq = [json.loads(line) for line in (folder / "BoolQ.jsonl").read_text().splitlines()]
  assert [row["label"] for row in boolq] == ["true"] * len(boolq)
