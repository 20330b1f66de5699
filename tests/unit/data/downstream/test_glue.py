# SPDX-License-Identifier: Apache-2.0
"""GLUE's published tables: read as TFDS reads them, and T5's texts of them."""

from __future__ import annotations

import glue_form
import pytest
import tfds_form

from switch_t5 import errors
from switch_t5.data.downstream import datasets, glue_data, registry, wnli

BUILT = (
  glue_data.COLA,
  glue_data.QQP,
  glue_data.STSB,
  glue_data.WNLI,
  glue_data.MNLI,
  glue_data.AX,
)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
  return glue_form.write(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, published):
  """The data sets of `BUILT`, made by TFDS's own builders."""
  ax = str(published / "diagnostic" / "diagnostic.tsv")
  return tfds_form.prepare(
    tmp_path_factory.mktemp("tfds"),
    BUILT,
    download_and_extract=lambda self, url: str(published),
    download=lambda self, url: ax,
  )


@pytest.mark.parametrize("dataset", BUILT, ids=lambda dataset: dataset.tfds)
def test_files_are_read_as_tfds_reads_them(dataset, published, prepared, tmp_path):
  tfds_form.assert_read_alike(dataset, published, prepared, tmp_path)


def test_another_version_that_is_prepared_is_read(prepared, tmp_path):
  (tmp_path / "glue" / "ax").mkdir(parents=True)
  (prepared / "glue" / "ax" / "2.0.0").rename(tmp_path / "glue" / "ax" / "1.0.0")
  source = datasets.source(glue_data.AX, None, str(tmp_path))
  assert len(list(source.get_dataset("test", shuffle=False))) == 1


TEXTS = [
  ("cola", "train", 0, "cola sentence: The cat sat.", "acceptable"),
  ("sst2", "validation", 1, "sst2 sentence: a dull film ", "negative"),
  ("mrpc", "train", 0, "mrpc sentence1: It rained . sentence2: Rain fell .", "equivalent"),
  ("mrpc", "test", 0, "mrpc sentence1: It rained . sentence2: Rain fell .", "<unk>"),
  ("qqp", "train", 1, "qqp question1: How old? question2: How far?", "not_duplicate"),
  ("stsb", "train", 0, "stsb sentence1: It rained. sentence2: Rain fell.", "4.8"),
  ("stsb", "test", 0, "stsb sentence1: It rained. sentence2: Rain fell.", "-1.0"),
  (
    "mnli_matched",
    "validation",
    1,
    "mnli hypothesis: It was dry. premise: It rained.",
    "contradiction",
  ),
  ("qnli", "train", 0, "qnli question: Who sat? sentence: The cat sat.", "entailment"),
  ("rte", "train", 1, "rte sentence1: It rained. sentence2: It was dry.", "not_entailment"),
  ("ax", "test", 0, "mnli hypothesis: B. premise: A.", "<unk>"),
]


def _texts(name, folder, split):
  task = registry.get_task(name)
  dataset = datasets.source(task.dataset, folder, None, task.splits).get_dataset(split, False)
  for step in task.preprocessors:
    dataset = step(dataset)
  return [
    (example["inputs"].decode(), example["targets"].decode())
    for example in dataset.as_numpy_iterator()
  ]


@pytest.mark.parametrize(("name", "split", "number", "inputs", "targets"), TEXTS)
def test_texts_are_t5s(published, name, split, number, inputs, targets):
  assert _texts(f"glue_{name}_v002", published, split)[number] == (inputs, targets)


def test_wnli_is_evaluated_as_wsc(published):
  assert _texts("glue_wnli_v002_simple_eval", published, "validation") == [
    ("wsc: The fish ate the worm. *It* was tasty.", "The worm"),
    ("wsc: Ann met Eva's dog after *she* left, and barked.", "Eva"),
  ]


@pytest.mark.parametrize(
  ("premise", "hypothesis", "marked", "referent"),
  [
    ("Bo lifted Al onto his shoulders.", "Bo lifted Al onto Al's shoulders.", "*his*", "Al"),
    ("Bo met the men. Al saw them.", "Al saw the men.", "*them* .", "the men"),
    ("Bo came late, but he stayed.", "Bo stayed.", "*he*", "Bo"),
    ("Nobody came.", "Bo came.", "Nobody came.", "Bo came."),
    ("He left.", "Rain fell.", "*He*", "Rain fell"),
  ],
)
def test_the_pronoun_is_the_one_whose_words_around_it_are_shared(
  premise, hypothesis, marked, referent
):
  sentence, found = wnli.as_wsc(premise, hypothesis)
  assert marked in sentence and found == referent
  assert sentence.count("*") == 2 * ("*" in marked)


@pytest.mark.parametrize(
  ("line", "match"),
  [
    ("3\tIt rained.\tRain fell.\tmaybe", "line 2(.|\n)*'maybe'(.|\n)*not_entailment"),
    ("3\tIt rained.\tRain fell.\t7", "line 2(.|\n)*'7'"),
    ("3\tIt rained.\t" + "x" * 200_000 + "\t1", "line 2(.|\n)*a table"),
  ],
)
def test_a_faulty_row_is_named(tmp_path, line, match):
  (tmp_path / "train.tsv").write_text(f"{glue_form.TABLES['RTE'][0]}\n{line}\n")
  with pytest.raises(errors.DataError, match=match):
    glue_data.RTE.examples(tmp_path, "train")


@pytest.mark.parametrize(
  ("header", "match"),
  [("index\tsentence1\tlabel", "'sentence2'"), ("index\tsentence1\tsentence2", "label is None")],
)
def test_a_missing_column_is_named(tmp_path, header, match):
  (tmp_path / "train.tsv").write_text(f"{header}\n1\ta\tb\n")
  with pytest.raises(errors.DataError, match=match):
    glue_data.RTE.examples(tmp_path, "train")


def test_a_score_that_is_no_number_is_named(tmp_path):
  header = glue_form.TABLES["STS-B"][0]
  (tmp_path / "train.tsv").write_text(f"{header}\n0\tnews\tf\t2012\t1\tnone\tnone\ta\tb\thigh\n")
  with pytest.raises(errors.DataError, match=r"line 2(.|\n)*high"):
    glue_data.STSB.examples(tmp_path, "train")
