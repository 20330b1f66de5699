# SPDX-License-Identifier: Apache-2.0
"""The tasks beside GLUE and SuperGLUE: their texts, and scores of right and wrong answers."""

from __future__ import annotations

import json
from pathlib import Path

import published_forms
import pytest

from switch_t5 import errors
from switch_t5.data import tfds_source
from switch_t5.data.downstream import anli, choices, closed_book, datasets, registry, squad, wmt
from switch_t5.data.downstream import summaries as summaries_lib

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow's own

SQUAD_CONTEXT = "context: The Rhine ( 1 , 233 km ) rises in Fran ç ois ' s garden . "
ARC = "arc question: Which is a metal? choices: (A) air (B) iron (C) wood"
WINOGRANDE = (
  "winogrande option1: Ann option2: Beth sentence: Ann thanked Beth because _ had helped."
)
# Of each task and split: the texts of the examples.
TEXTS = [
  (
    "squad_v010_allanswers",
    "validation",
    [
      (f"question: Where does it rise ? {SQUAD_CONTEXT}", "Fran ç ois ' s garden"),
      (f"question: How long ? {SQUAD_CONTEXT}", "1 , 233 km"),
    ],
  ),
  ("cnn_dailymail_v002", "train", [("summarize: It rained . A lot.", "It rained .\nA lot .")]),
  ("xsum_v001", "train", [("summarize: It rained.\nA lot.", "Rain fell.")]),
  (
    "winogrande_v001",
    "train",
    [(WINOGRANDE, "option2"), (WINOGRANDE, "option1"), (WINOGRANDE, "option2")],
  ),
  ("winogrande_v001", "test", [(WINOGRANDE, "<unk>")] * 3),
  *(
    (
      task,
      "validation",
      [(f"{ARC} (D) milk", "B"), (ARC, "B"), (f"{ARC} (D) milk (E) salt", "B")],
    )
    for task in ("arc_easy_v001", "arc_challenge_v001")
  ),
  *(
    (
      f"anli_r{number}_v001",
      "validation",
      [
        ("anli hypothesis: It was wet. premise: It rained.", label)
        for label in ("entailment", "neutral", "contradiction")
      ],
    )
    for number in (1, 2, 3)
  ),
  ("natural_questions_open", "test", [("nq question: who wrote it", "Ann Lee")]),
  (
    "natural_questions_open_test",
    "train",
    [("nq question: who wrote it", "Ann Lee"), ("nq question: when was it", "1901")],
  ),
  ("web_questions_open", "test", [("wq question: where is z?", "Z")]),
  (
    "web_questions_open_test",
    "train",
    [("wq question: who is the sister of jo?", "Jo"), ("wq question: where is z?", "Z")],
  ),
  ("trivia_qa_open", "test", [("trivia_qa question: How many?", "Four")]),
  (
    "trivia_qa_open_test",
    "train",
    [
      ("trivia_qa question: Who is big?", "Big Bob"),
      ("trivia_qa question: How many?", "Four"),
      ("trivia_qa question: How many?", "Four"),
    ],
  ),
  (
    "trivia_qa_open_test",
    "test",
    [("trivia_qa question: Who is big?", "<unk>"), ("trivia_qa question: How many?", "<unk>")],
  ),
  *(
    (
      task,
      "validation",
      [
        (f"translate English to {language}: The house .", f"{code} the house is ."),
        (f"translate English to {language}: A line\u2028is one.", f"{code} a line"),
      ],
    )
    for task, language, code in [
      ("wmt_t2t_ende_v003", "German", "de"),
      ("wmt15_enfr_v003", "French", "fr"),
      ("wmt16_enro_v003", "Romanian", "ro"),
    ]
  ),
]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
  tfds_source.load_tensorflow()
  return published_forms.write_all(tmp_path_factory.mktemp("published"))


def _examples(task, folder, split):
  """Returns a split's examples with `inputs` and `targets`, as text to text."""
  dataset = datasets.source(task.dataset, folder, None, task.splits).get_dataset(
    split, shuffle=False
  )
  for step in task.preprocessors:
    dataset = step(dataset)
  return list(dataset.as_numpy_iterator())


@pytest.mark.parametrize(
  ("name", "split", "texts"), TEXTS, ids=[f"{name}-{split}" for name, split, _ in TEXTS]
)
def test_texts(published, name, split, texts):
  examples = _examples(registry.get_task(name), published, split)
  assert [
    (example["inputs"].decode("utf-8"), example["targets"].decode("utf-8")) for example in examples
  ] == texts


@pytest.mark.parametrize(
  ("name", "split", "best"),
  [
    ("squad_v010_allanswers", "validation", {"em": 100, "f1": 100}),
    ("natural_questions_open", "test", {"em": 100, "f1": 100}),
    ("web_questions_open_test", "validation", {"em": 100, "f1": 100}),
    ("trivia_qa_open", "test", {"em": 100, "f1": 100}),
    ("xsum_v001", "validation", {"rouge1": 100, "rouge2": 100, "rougeLsum": 100}),
    ("cnn_dailymail_v002", "validation", {"rouge1": 100, "rouge2": 100, "rougeLsum": 100}),
    ("winogrande_v001", "validation", {"accuracy": 100}),
    ("arc_easy_v001", "validation", {"accuracy": 100}),
    ("anli_r3_v001", "validation", {"accuracy": 100}),
    ("wmt16_enro_v003", "validation", {"bleu": pytest.approx(100)}),
  ],
)
def test_targets_as_answers_score_best_and_no_answers_score_0(published, name, split, best):
  task = registry.get_task(name)
  examples = _examples(task, published, split)
  after = task.postprocess or (lambda text, example=None, is_target=False: text)
  decoded = [example["targets"].decode("utf-8") for example in examples]
  targets = [
    after(text, example=example, is_target=True)
    for text, example in zip(decoded, examples, strict=True)
  ]
  for answers, expected in ((decoded, best), ([""] * len(decoded), dict.fromkeys(best, 0))):
    predictions = [
      after(text, example=example, is_target=False)
      for text, example in zip(answers, examples, strict=True)
    ]
    (metric,) = task.metrics
    assert metric(targets, predictions) == expected


def test_rates_of_the_closed_book_mixtures_are_numbers_of_train_examples():
  assert registry.rates("closed_book_qa") == {
    "trivia_qa_open": 78785,
    "natural_questions_open": 79168,
    "web_questions_open": 3417,
  }
  assert set(registry.mixture_tasks("closed_book_qa_test")) == {
    f"{name}_open_test" for name in ("trivia_qa", "natural_questions", "web_questions")
  }


def test_a_registered_task_has_tokens_with_eos_and_its_answers(published):
  import seqio

  registered = registry.register("web_questions_open_test", task_data_dir=published)
  assert registered.rates == {"web_questions_open_test": 1.0}
  assert registered.evaluated == ("web_questions_open_test",)
  task = seqio.get_mixture_or_task("web_questions_open_test")
  (example,) = task.get_dataset({"inputs": 64, "targets": 16}, "validation", shuffle=False)
  vocabulary = task.output_features["targets"].vocabulary
  assert example["targets"][-1] == vocabulary.eos_id
  decoded = vocabulary.decode(example["targets"].numpy().tolist())
  as_numpy = {key: value.numpy() for key, value in example.items()}
  assert task.postprocess_fn(decoded, example=as_numpy, is_target=True) == ["Z"]


@pytest.mark.parametrize("module", [squad, summaries_lib, choices, anli, closed_book, wmt])
def test_the_guide_says_what_each_task_reads(module):
  guide = (Path(__file__).parents[4] / "docs" / "guides" / "tasks.md").read_text("utf-8")
  for task in module.FAMILY.tasks:
    (row,) = (
      line for line in guide.splitlines() if line.startswith("|") and f"`{task.name}`" in line
    )
    assert f"`{task.dataset.tfds}`" in row
    assert f"`{task.dataset.folder.partition('/')[0]}/" in row


ANLI_R1 = anli.FAMILY.tasks[0].dataset
ROW = {"uid": "u", "context": "c", "hypothesis": "h", "label": "e"}
QUESTION = {"id": "q", "question": "w", "answers": [{"text": "a", "answer_start": 0}]}
CHOICES = [{"text": "x", "label": "A"}, {"text": "y", "label": "B"}]
CHOICE = {"id": "i", "question": {"stem": "s", "choices": CHOICES}, "answerKey": "A"}
OPTIONS = {"sentence": "s", "option1": "a", "option2": "b", "answer": "1"}


def _squad(**changed):
  qas = [QUESTION, QUESTION | changed]
  return {"data": [{"title": "t", "paragraphs": [{"context": "c", "qas": qas}]}]}


def _without(row, key):
  return {name: value for name, value in row.items() if name != key}


@pytest.mark.parametrize(
  ("dataset", "split", "rows", "match"),
  [
    (squad.SQUAD, "train", '{"data":\n [}', r"train-v1\.1\.json, line 2(.|\n)*JSON"),
    (squad.SQUAD, "train", "[1]", r"train-v1\.1\.json(.|\n)*published form"),
    (squad.SQUAD, "train", {"dat": []}, r"train-v1\.1\.json(.|\n)*'data'"),
    (squad.SQUAD, "train", _squad(answers=[]), r"paragraphs\[0\]\.qas\[1\](.|\n)*no answer"),
    (squad.SQUAD, "train", _squad(answers=[{}]), r"paragraphs\[0\]\.qas\[1\](.|\n)*'text'"),
    (squad.SQUAD, "train", _squad(question=3), r"paragraphs\[0\]\.qas\[1\](.|\n)*question is 3"),
    (squad.SQUAD, "train", {"data": []}, "train split of squad is empty"),
    (closed_book.WEB_QUESTIONS, "test", [{"url": ""}], r"test\.json, \[0\](.|\n)*'targetValue'"),
    (
      closed_book.WEB_QUESTIONS,
      "test",
      [{"url": "", "utterance": "", "targetValue": "(list)"}],
      r"\[0\](.|\n)*no answer",
    ),
    (closed_book.TRIVIA_QA, "train", {"Data": [{}]}, r"Data\[0\](.|\n)*'Question'"),
    (closed_book.NATURAL_QUESTIONS, "train", ['{"answer": []}'], r"line 1(.|\n)*no answer"),
    (
      closed_book.NATURAL_QUESTIONS,
      "train",
      ['{"question": "q", "answer": "a"}'],
      r"line 1(.|\n)*answer is 'a'",
    ),
    (summaries_lib.XSUM, "test", ['{"document": "d"}'], r"test\.jsonl, line 1(.|\n)*'summary'"),
    (summaries_lib.CNN_DAILYMAIL, "test", ["{"], r"test\.jsonl, line 1(.|\n)*JSON object"),
    (choices.WINOGRANDE, "train_xl", [OPTIONS | {"answer": "3"}], r"line 1(.|\n)*label is '3'"),
    (
      choices.WINOGRANDE,
      "validation",
      [_without(OPTIONS, "answer")],
      r"line 1(.|\n)*label is None",
    ),
    (choices.ARC_EASY, "test", [CHOICE | {"answerKey": "C"}], r"line 1(.|\n)*answer is 'C'"),
    (choices.ARC_EASY, "test", [CHOICE | {"answerKey": []}], r"line 1(.|\n)*published form"),
    (choices.ARC_EASY, "test", [_without(CHOICE, "question")], r"line 1(.|\n)*'question'"),
    (ANLI_R1, "validation", [ROW, ROW | {"label": "x"}], r"dev\.jsonl, line 2(.|\n)*e, n, c"),
    (ANLI_R1, "validation", [], r"validation split of anli_v0\.1/R1 is empty(.|\n)*dev\.jsonl"),
  ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_place(tmp_path, dataset, split, rows, match):
  if dataset.files[split].endswith(".jsonl"):
    content = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
  else:
    content = rows if isinstance(rows, str) else json.dumps(rows)
  published_forms.text(tmp_path / dataset.files[split], content)
  with pytest.raises(errors.DataError, match=match):
    dataset.examples(tmp_path, split)


def test_parallel_texts_have_one_length_and_are_utf8(tmp_path):
  published_forms.text(tmp_path / "train.en", "a\nb\n")
  published_forms.text(tmp_path / "train.de", "a\nb\nc\n")
  with pytest.raises(errors.DataError, match=r"train\.de: 3 lines(.|\n)*train\.en: 2 lines"):
    wmt.WMT_ENDE.examples(tmp_path, "train")
  (tmp_path / "train.de").write_bytes(b"a\n\xff\n")
  with pytest.raises(errors.DataError, match=r"train\.de and train\.en, line 2(.|\n)*UTF-8"):
    wmt.WMT_ENDE.examples(tmp_path, "train")
  for language in ("de", "en"):
    (tmp_path / f"train.{language}").write_bytes(b"")
  with pytest.raises(errors.DataError, match="train split of wmt_t2t_ende is empty"):
    wmt.WMT_ENDE.examples(tmp_path, "train")


def test_a_text_without_its_translation_is_no_split(tmp_path):
  published_forms.wmt(tmp_path)
  (tmp_path / "wmt_t2t_ende" / "train.en").unlink()
  source = datasets.source(wmt.WMT_ENDE, tmp_path, None)
  assert source.splits == ("validation", "test")
  assert source.list_shards("test") == [
    str(tmp_path / "wmt_t2t_ende" / name) for name in ("test.de", "test.en")
  ]
