# SPDX-License-Identifier: Apache-2.0
"""The readers of published files give what TFDS's own builders make of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import published_forms
import pytest
import tfds_form

from switch_t5.data import tfds_source
from switch_t5.data.downstream import anli, choices, closed_book, datasets, squad, summaries, wmt

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow's own

ANLI = [task.dataset for task in anli.FAMILY.tasks]
BUILT = [
  squad.SQUAD,
  closed_book.NATURAL_QUESTIONS,
  closed_book.WEB_QUESTIONS,
  closed_book.TRIVIA_QA,
  choices.WINOGRANDE,
  choices.ARC_CHALLENGE,
  ANLI[1],
  wmt.WMT_ENDE,
]
# Their builders read what nobody passes on: addresses of stories, WMT's many archives.
ONLY_FEATURES = [
  *(summaries.CNN_DAILYMAIL, summaries.XSUM, choices.ARC_EASY, ANLI[0], ANLI[2]),
  *(wmt.WMT15_ENFR, wmt.WMT16_ENRO),
]


def _ids(dataset):
  return dataset.tfds


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
  return published_forms.write_all(tmp_path_factory.mktemp("published"))


def _corpora(folder: Path) -> None:
  """Writes what WMT's English and German texts are made of, as WMT has it."""
  from tensorflow_datasets.translate import wmt as tfds_wmt

  split_of = {"europarl_v7": "train", "newstest2013": "validation", "newstest2014": "test"}
  for name in (*split_of, "commoncrawl", "newscommentary_v13"):
    for path in tfds_wmt.DATASET_MAP[name].get_path("de"):
      code = path.removesuffix(".sgm").rpartition(".")[2]
      split = split_of.get(name)
      lines = ""
      if split:
        lines = (folder / "wmt_t2t_ende" / f"{split}.{code}").read_text("utf-8")
      if path.endswith(".sgm"):
        rows = lines.removesuffix("\n").split("\n")
        lines = "".join(f'<seg id="{n}">{row}</seg>\n' for n, row in enumerate(rows))
      published_forms.text(folder / path, lines)


def _prepared(dataset, folder: Path, prepared: Path) -> None:
  """Lets TFDS's builder prepare a data set, from files in place of its downloads."""
  import tensorflow_datasets as tfds
  import tree

  names = {
    tfds.question_answering.web_questions._SPLIT_DOWNLOAD_URL[split]: name
    for split, name in closed_book.WEB_QUESTIONS.files.items()
  }

  def download(self, urls):
    def found(url):
      files = list(folder.rglob(names.get(url, url.rpartition("/")[2])))
      return str(files[0] if files and files[0].is_file() else folder)

    return tree.map_structure(found, urls)

  tfds_form.prepare(prepared, [dataset], download, download)


def _examples(source, split):
  """Returns the examples of a split in an order of their own, with types."""

  def plain(value):
    if isinstance(value, dict):
      return sorted((key, plain(inner)) for key, inner in value.items())
    array = np.asarray(value)
    return str(array.dtype), array.tolist()

  dataset = source.get_dataset(split, shuffle=False)
  return sorted(map(repr, map(plain, dataset.as_numpy_iterator())))


@pytest.mark.parametrize("dataset", BUILT, ids=_ids)
def test_own_files_are_read_as_tfds_reads_them(published, tmp_path, dataset):
  tfds_source.load_tensorflow()
  if dataset is wmt.WMT_ENDE:
    _corpora(published)
  _prepared(dataset, published, tmp_path)
  own = datasets.source(dataset, published, None)
  tfds = datasets.source(dataset, None, str(tmp_path))
  assert list(own.splits) == list(dataset.files) and set(tfds.splits) == set(own.splits)
  for split in dataset.files:
    assert _examples(own, split) == _examples(tfds, split) != []


@pytest.mark.parametrize("dataset", [*BUILT, *ONLY_FEATURES], ids=_ids)
def test_features_are_those_of_tfds(dataset, tmp_path):
  tfds_source.load_tensorflow()
  import tensorflow_datasets as tfds

  def described(feature):
    if isinstance(feature, tfds.features.ClassLabel):
      return tuple(feature.names)
    if isinstance(feature, tfds.features.Sequence):
      inner = feature.feature
      if hasattr(inner, "items"):
        return {key: described(tfds.features.Sequence(value)) for key, value in inner.items()}
      return f"{np.dtype(inner.np_dtype).name if inner.np_dtype != np.object_ else 'string'}[]"
    if hasattr(feature, "items"):
      return {key: described(value) for key, value in feature.items()}
    return "string" if feature.np_dtype == np.object_ else np.dtype(feature.np_dtype).name

  builder = tfds.builder(dataset.tfds, data_dir=tmp_path)
  assert described(builder.info.features) == dict(dataset.features)
  assert str(builder.version) == dataset.tfds.partition(":")[2]
