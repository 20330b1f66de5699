# SPDX-License-Identifier: Apache-2.0
"""Tasks of seqio's registries, answered by a function and scored by their own metrics."""

from __future__ import annotations

import dataclasses
import functools
import json
import types

import numpy as np
import pytest

from switch_t5 import errors
from switch_t5.data.vocabulary import Vocabulary, embedded_vocabulary_path
from switch_t5.decoding.config import DecodingConfig
from switch_t5.evaluation.predictions import write_predictions
from switch_t5.scores import labels

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow's own

LENGTHS = {"inputs": 12, "targets": 4}
VOCABULARY = Vocabulary(embedded_vocabulary_path())
TRUTH = {"is two even": "True", "is three even": "False", "is four even": "True"}
LONG = "is " + "the " * 30 + "number even"


def accuracy_of_scores(targets, scores):
  return {"mean_score": float(np.mean(scores)), "number": len(targets)}


@pytest.fixture(scope="module")
def seqio():
  """seqio, with the tasks `even`, `echo`, `without_targets` and `of_scores`."""
  import seqio
  import tensorflow as tf

  def source(pairs):
    def examples(split, shuffle_files, seed=None):
      inputs, targets = zip(*pairs[split], strict=True)
      numbers = np.arange(len(inputs))
      return tf.data.Dataset.from_tensor_slices(
        {"inputs": list(inputs), "targets": list(targets), "idx": numbers}
      )

    return seqio.FunctionDataSource(examples, splits=list(pairs))

  feature = seqio.Feature(
    seqio.SentencePieceVocabulary(str(embedded_vocabulary_path()), 100), add_eos=True
  )

  def add(name, pairs, **options):
    seqio.TaskRegistry.add(
      name,
      source=source(pairs),
      preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
      output_features={"inputs": feature, "targets": feature},
      **options,
    )

  twice = [*TRUTH.items(), ("is two even", "True")]
  is_label = functools.partial(labels.label_number, labels=("False", "True"))
  add(
    "even",
    {"validation": twice, "test": [(text, "<unk>") for text in TRUTH]},
    postprocess_fn=is_label,
    metric_fns=[labels.accuracy],
  )
  long_answer = " ".join(["word"] * 9)
  add("echo", {"validation": [(LONG, long_answer), ("a", "b")]}, metric_fns=[labels.accuracy])
  add("of_scores", {"validation": list(TRUTH.items())}, metric_fns=[accuracy_of_scores])
  yield seqio
  for name in ("even", "echo", "of_scores"):
    seqio.TaskRegistry.remove(name)


@dataclasses.dataclass
class Function:
  """Answers with a function of the text."""

  answer: object
  batch_size: int = 1
  asked: list[str] = dataclasses.field(default_factory=list)

  def generate_ids(self, inputs, decoding):
    texts = [VOCABULARY.decode(list(ids)) for ids in inputs]
    self.asked += texts
    return [types.SimpleNamespace(ids=VOCABULARY.encode(self.answer(text))) for text in texts]

  def score_ids(self, inputs, targets):
    return [-float(len(ids)) for ids in targets]


def evaluate(name, predictor, **options):
  from switch_t5.evaluation.seqio_evaluation import SeqioEvaluation

  stop = options.pop("stop", lambda: False)
  return SeqioEvaluation([name], LENGTHS, **options).evaluate(
    predictor, DecodingConfig(), stop=stop
  )


def test_right_answers_have_the_best_score_and_equal_inputs_are_asked_once(seqio):
  predictor = Function(TRUTH.get)
  result = evaluate("even", predictor)["even"]
  assert result.metrics == {"accuracy": 100.0}
  assert [answer.is_correct for answer in result.answers] == [True] * 4
  assert sorted(predictor.asked) == sorted(TRUTH)


def test_rubbish_is_counted_wrong_and_counted(seqio, tmp_path):
  answers = TRUTH | {"is two even": "perhaps"}
  results = evaluate("even", Function(answers.get))
  assert results["even"].metrics == {"accuracy": 50.0}
  assert results["even"].num_invalid == 2
  folder = write_predictions(tmp_path, results, name="step_7")
  assert folder == tmp_path / "predictions" / "step_7"
  rows = [json.loads(line) for line in (folder / "even.jsonl").read_text().splitlines()]
  assert rows[0] == {
    "idx": 0,
    "inputs": "is two even",
    "targets": "True",
    "output": "perhaps",
    "target": 1,
    "prediction": -1,
    "correct": False,
    "invalid": True,
  }
  assert "invalid" not in rows[1] and rows[1]["correct"]
  assert [path.name for path in folder.iterdir()] == ["even.jsonl"]


def test_a_split_without_targets_is_answered_and_has_no_score(seqio):
  result = evaluate("even", Function(TRUTH.get), split="test")["even"]
  assert result.metrics == {}
  assert [answer.output for answer in result.answers] == list(TRUTH.values())
  assert result.num_invalid == 0


def test_what_is_too_long_is_cut_and_counted_and_scored_against_the_whole_targets(seqio):
  from switch_t5.evaluation.seqio_evaluation import SeqioEvaluation

  evaluation = SeqioEvaluation(["echo"], LENGTHS)
  assert evaluation.too_long == {("echo", "inputs"): 1, ("echo", "targets"): 1}
  right = {"a": "b"}
  whole = " ".join(["word"] * 9)
  predictor = Function(lambda text: right.get(text, whole))
  result = evaluation.evaluate(predictor, DecodingConfig())["echo"]
  assert result.metrics == {"accuracy": 100.0}
  (asked,) = [text for text in predictor.asked if text != "a"]
  assert LONG.startswith(asked) and len(asked) < len(LONG)


def test_targets_are_scored_where_a_metric_wants_it(seqio):
  result = evaluate("of_scores", Function(TRUTH.get))["of_scores"]
  lengths = [len(VOCABULARY.encode(text)) + 1 for text in TRUTH.values()]
  assert result.metrics == {"mean_score": -np.mean(lengths), "number": 3.0}


def test_metrics_are_named_before_anything_is_answered(seqio):
  from switch_t5.evaluation.seqio_evaluation import SeqioEvaluation

  evaluation = SeqioEvaluation(["even", "of_scores"], LENGTHS, max_examples=2)
  assert evaluation.num_examples == 4
  assert evaluation.metric_names() == {"even": ["accuracy"], "of_scores": ["mean_score", "number"]}


def test_it_ends_when_it_is_told_to(seqio):
  predictor = Function(TRUTH.get)
  assert evaluate("even", predictor, stop=lambda: True) is None
  assert predictor.asked == []


def test_a_split_that_is_not_there_is_named(seqio):
  with pytest.raises(errors.DataError, match="one of validation, test"):
    evaluate("even", Function(TRUTH.get), split="train")
