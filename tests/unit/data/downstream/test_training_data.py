# SPDX-License-Identifier: Apache-2.0
"""Tasks of `downstream` as what a run is trained and validated on."""

from __future__ import annotations

import numpy as np
import pytest
import reading
import superglue_form

from switch_t5 import errors
from switch_t5.data import cache, example_cache, indexed, tasks
from switch_t5.data.downstream import registry

WSC_DPR = "wsc_dpr_simple_proportional"
LENGTHS = {"inputs": 32, "targets": 8}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
  return superglue_form.write(tmp_path_factory.mktemp("published"))


def _components(name, folder, **arguments):
  return tasks.get_components(
    name, feature_lengths=LENGTHS, task_data_dir=folder, tfds_data_dir=str(folder), **arguments
  )


@pytest.fixture(scope="module")
def caches(published, tmp_path_factory):
  """The mixture's caches, with the rates of their tasks."""
  root = tmp_path_factory.mktemp("caches")
  written = []
  for task in _components(WSC_DPR, published):
    directory = cache.cache_directory(root, task)
    example_cache.write_examples(task, directory)
    written.append(directory)
  rates = tasks.get_mixture(WSC_DPR).rates_for([0] * len(written))
  return list(map(indexed.Component, written, rates))


def test_a_mixture_is_its_tasks_in_seqios_order_with_their_rates(published):
  names = [task.name for task in _components(WSC_DPR, published)]
  mixture = tasks.get_mixture(WSC_DPR)
  assert tuple(names) == mixture.tasks
  assert dict(zip(names, mixture.rates, strict=True)) == registry.rates(WSC_DPR)


def test_what_is_only_evaluated_is_not_trained_on(caches):
  reader = indexed.IndexedReader(
    caches, "train", feature_lengths=LENGTHS, batch_size=4, seed=0, pack=False
  )
  assert reader.num_rows == 3  # DPR's two examples, and the one of WSC with the right referent


def test_tasks_without_a_validation_split_are_left_out_of_it(caches):
  reader = indexed.IndexedReader(
    caches,
    "validation",
    feature_lengths=LENGTHS,
    batch_size=1,
    seed=0,
    shuffle=False,
    num_epochs=1,
    pack=False,
  )
  rows = reading.take(reader, 10)
  assert len(rows["encoder_input_tokens"]) == 3  # WSC's, with right and wrong referents
  assert np.isfinite(indexed.unigram_entropy(caches, feature_lengths=LENGTHS))


def test_a_split_that_no_task_has_is_refused(caches):
  with pytest.raises(errors.DataError, match="no such split"):
    indexed.IndexedReader(caches, "test", feature_lengths=LENGTHS, batch_size=1, seed=0)


def test_a_task_with_a_test_split_alone_is_nothing_to_train_on(published):
  with pytest.raises(errors.DataError, match=r"super_glue_axb_v102(.|\n)*train or validation"):
    _components("super_glue_axb_v102", published)


def test_a_mixture_of_the_users_own_may_have_our_tasks(published, fixture_text, monkeypatch):
  monkeypatch.setattr(tasks, "_mixtures", dict(tasks._mixtures))
  names = ("super_glue_copa_v102", "text_span_corruption")
  tasks.add_mixture(tasks.Mixture("copa_and_text", names, (1.0, 2.0)))
  found = _components("copa_and_text", published, text_files=str(fixture_text))
  assert tuple(task.name for task in found) == names


def test_a_task_that_another_module_has_registered_is_left_alone(published):
  import seqio

  name = "super_glue_cb_v102"
  registry.register(name, task_data_dir=published)
  task = seqio.TaskRegistry.get(name)
  assert registry.provides(name)
  seqio.TaskRegistry.remove(name)
  try:
    seqio.TaskRegistry.add(
      name,
      source=task.source,
      preprocessors=task.preprocessors,
      output_features=task.output_features,
    )
    theirs = seqio.TaskRegistry.get(name)
    assert not registry.provides(name)
    _components(name, published)
    assert seqio.TaskRegistry.get(name) is theirs
  finally:
    seqio.TaskRegistry.remove(name)
  assert registry.provides(name)


@pytest.mark.parametrize(
  ("name", "said"),
  [
    ("super_glue_bolq_v102", "Did you mean super_glue_boolq_v102"),
    ("superglue_v102_proportional", "Did you mean super_glue_v102_proportional"),
    ("nothing_like_it", r"docs/guides/tasks\.md"),
  ],
)
def test_an_unknown_task_gets_a_suggestion(published, name, said):
  with pytest.raises(errors.ConfigError, match=said):
    _components(name, published)


def test_a_cache_follows_the_content_of_the_files(tmp_path):
  superglue_form.write(tmp_path, ["WiC"])
  name = "super_glue_wic_v102"
  (task,) = _components(name, tmp_path)
  before = task.fingerprint()
  path = tmp_path / "WiC" / "train.jsonl"
  path.write_text(path.read_text().replace("A bank of 0.", "A bank of 7."))
  (task,) = _components(name, tmp_path)
  assert task.fingerprint() != before
