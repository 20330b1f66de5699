# SPDX-License-Identifier: Apache-2.0
"""SuperGLUE's published files: read as TFDS reads them, and T5's texts of them."""

from __future__ import annotations

import functools

import pytest
import superglue_form
import tfds_form

from switch_t5 import errors
from switch_t5.data.downstream import datasets, registry, superglue_data

BUILT = (
  superglue_data.BOOLQ,
  superglue_data.COPA,
  superglue_data.MULTIRC,
  superglue_data.RECORD,
  superglue_data.WSC,
  superglue_data.AXB,
  superglue_data.DPR,
)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
  return superglue_form.write(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, published):
  """The data sets of `BUILT`, made by TFDS's own builders."""
  files = {split: str(published / "DPR" / f"{split}.c.txt") for split in ("train", "test")}
  return tfds_form.prepare(
    tmp_path_factory.mktemp("tfds"),
    BUILT,
    download_and_extract=lambda self, url: str(published),
    download=lambda self, urls: files,
  )


@pytest.mark.parametrize("dataset", BUILT, ids=lambda dataset: dataset.tfds)
def test_files_are_read_as_tfds_reads_them(dataset, published, prepared, tmp_path):
  tfds_form.assert_read_alike(dataset, published, prepared, tmp_path)


@pytest.fixture(scope="module")
def texts(published):
  """Inputs and targets of the examples of a task's split; each is made once."""

  @functools.cache
  def make(name, split, folder=published):
    task = registry.get_task(name)
    dataset = datasets.source(task.dataset, folder, None, task.splits).get_dataset(split, False)
    for step in task.preprocessors:
      dataset = step(dataset)
    return [
      (example["inputs"].decode(), example["targets"].decode())
      for example in dataset.as_numpy_iterator()
    ]

  return make


_RECORD = (
  "record query: Crowds met @placeholder. entities: Harbour Town, Ines Vidal, Vidal passage: The "
  "ferry left Harbour Town at noon. Mayor Ines Vidal waved. Harbour Town has a ferry again. Mayor "
  "Vidal is pleased"
)
_WSC = "wsc: Anna told Eva that *she* had won {} prizes."
TEXTS = [
  ("boolq_v102", 1, "boolq passage: 1 is a number. question: is 1 even", "False"),
  ("cb_v102", 2, "cb hypothesis: boats came premise: B: 2 boats came.", "contradiction"),
  (
    "copa_v102",
    1,
    "copa choice1: It rained. choice2: It was dry. premise: Street 1 is wet. question: cause",
    "choice2",
  ),
  (
    "multirc_v102",
    1,
    "multirc question: When did boat 0 leave? answer: at 1 paragraph: Sent 1: Boat 0 left at noon. "
    "Sent 2: It was late. ",
    "False",
  ),
  ("record_v102", 0, _RECORD, "Ines Vidal"),
  ("record_v102", 1, _RECORD, "Vidal"),
  ("record_v102", 2, _RECORD, "Harbour Town"),
  ("rte_v102", 1, "rte hypothesis: A boat sank. premise: Boat 1 sank.", "not_entailment"),
  ("wic_v102", 0, "wic sentence1: A bank of 0. sentence2: The bank closed. word: bank", "True"),
  ("wsc_v102_simple_train", 0, _WSC.format(0), "Anna"),
]


@pytest.mark.parametrize(("name", "number", "inputs", "targets"), TEXTS)
def test_texts_are_t5s(texts, name, number, inputs, targets):
  assert texts(f"super_glue_{name}", "train")[number] == (inputs, targets)


def test_wsc_is_trained_on_right_referents_and_evaluated_on_all(texts):
  assert len(texts("super_glue_wsc_v102_simple_train", "train")) == 1
  evaluated = texts("super_glue_wsc_v102_simple_eval", "validation")
  assert sorted(target for _, target in evaluated) == ["Anna", "Anna", "Eva"]


def test_two_sentences_of_wsc_are_mended(tmp_path, texts):
  published = {
    "The boy continued to whip the pony , and eventually the pony threw him over. John laughed out "
    'quite loud. "Good for him," he said. ': (22, "him", '"Good for *him* ," he said.'),
    "When they had eventually calmed down a bit , and had gotten home, Mr. Farley put the magic "
    "pebble in an iron safe . Some day they might want to use it , but really for now, what more "
    "could they wish for?": (
      28,
      "it",
      "use *it* , but really for now, what more could they wish for?",
    ),
  }
  rows = [
    {
      "text": text,
      "target": {"span1_text": text[:3], "span1_index": 0, "span2_text": pronoun, "span2_index": n},
      "label": True,
      "idx": n,
    }
    for text, (n, pronoun, _) in published.items()
  ]
  superglue_form.write_lines(tmp_path / "WSC" / "train.jsonl", rows)
  made = texts("super_glue_wsc_v102_simple_train", "train", tmp_path)
  for (inputs, _), (_, _, end) in zip(made, published.values(), strict=True):
    assert inputs.endswith(end)


def test_dpr_marks_the_first_such_pronoun(texts):
  assert texts("dpr_v001_simple", "train") == [
    ("wsc: The bee left the flower since *it* had no pollen, it seems.", "The flower"),
    ("wsc: Ann thanked Eva, as *she* had helped.", "Eva"),
  ]


@pytest.mark.parametrize("name", ["axb", "axg"])
def test_diagnostics_are_cast_as_rte(texts, name):
  ((inputs, target),) = texts(f"super_glue_{name}_v102", "test")
  assert inputs.startswith("rte hypothesis: ") and " premise: " in inputs
  assert target == "entailment"


@pytest.mark.parametrize("name", ["boolq", "multirc", "record"])
def test_examples_without_labels_have_an_unknown_target(texts, name):
  assert {target for _, target in texts(f"super_glue_{name}_v102", "test")} == {"<unk>"}


def test_a_sentinel_ends_the_inputs_and_opens_the_targets(published):
  import seqio

  registry.register("super_glue_boolq_v102_1_sentinel", task_data_dir=published)
  plain, task = (
    seqio.TaskRegistry.get(f"super_glue_boolq_v102{suffix}") for suffix in ("", "_1_sentinel")
  )
  sentinel = task.output_features["inputs"].vocabulary.vocab_size - 1
  for example, other in zip(
    *(t.get_dataset(None, "train", shuffle=False).as_numpy_iterator() for t in (task, plain)),
    strict=True,
  ):
    assert example["inputs"].tolist() == [*other["inputs"][:-1], sentinel, 1]
    assert example["targets"].tolist() == [sentinel, *other["targets"]]
  assert task.postprocess_fn("<extra_id_0> True") == task.postprocess_fn("True") == 1


@pytest.mark.parametrize(
  ("text", "match"),
  [
    ("A sentence.\nit\nOne\nOne\n\n", "line 1(.|\n)*two candidates"),
    (superglue_form.DPR + "Another.\nit\nA, B\nC\n\n", "line 11(.|\n)*right"),
    ("Cut off.\nit\n", "line 1"),
  ],
)
def test_a_faulty_example_of_dpr_is_named(tmp_path, text, match):
  (tmp_path / "train.c.txt").write_text(text)
  with pytest.raises(errors.DataError, match=match):
    superglue_data.DPR.examples(tmp_path, "train")


@pytest.mark.parametrize(
  ("dataset", "row", "match"),
  [
    (superglue_data.COPA, {"label": 2}, "line 1"),
    (superglue_data.WSC, {"target": {"span1_text": "Zoe"}}, "line 1"),
    (superglue_data.MULTIRC, {"passage": {"text": "a"}}, "line 1(.|\n)*questions"),
    (superglue_data.MULTIRC, {"passage": "a"}, "line 1"),
    (superglue_data.RECORD, {"qas": 3}, "line 1"),
  ],
)
def test_faults_inside_an_example_are_named(tmp_path, dataset, row, match):
  made = dict(superglue_form.SUPERGLUE[dataset.folder][0])
  if "target" in row:
    row = {"target": made["target"] | row["target"]}
  superglue_form.write_lines(tmp_path / "train.jsonl", [made | row])
  with pytest.raises(errors.DataError, match=match):
    dataset.examples(tmp_path, "train")
