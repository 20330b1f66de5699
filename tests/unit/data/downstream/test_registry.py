# SPDX-License-Identifier: Apache-2.0
"""Tasks and mixtures by name, and what of them is registered with seqio."""

from __future__ import annotations

import shutil

import pytest
import superglue_form

from switch_t5 import errors
from switch_t5.data.downstream import registry
from switch_t5.scores import superglue

SUPERGLUE = "super_glue_v102_proportional"
WSC_DPR = "wsc_dpr_simple_proportional"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
  return superglue_form.write(tmp_path_factory.mktemp("published"))


def test_names_are_unique_and_mixtures_have_known_tasks():
  names = registry.names()
  assert len(set(names)) == len(names)
  for name in names:
    assert set(registry.mixture_tasks(name)) <= set(names)


def test_the_leaderboards_tasks_are_in_the_mixture_with_their_metrics():
  scored = [name for name in registry.mixture_tasks(SUPERGLUE) if registry.get_task(name).metrics]
  for task in superglue.LEADERBOARD:
    assert any(f"super_glue_{task}_v102" in name for name in scored)


def test_a_mixture_trains_what_has_a_rate_and_a_train_split(published):
  registered = registry.register(SUPERGLUE, task_data_dir=published)
  assert len(registered.rates) == 9 and registered.rates["super_glue_record_v102"] == 138854
  assert "super_glue_wsc_v102_simple_eval" not in registered.rates
  assert len(registered.evaluated) == 8  # DPR has no validation split, axb and axg no metrics
  assert "super_glue_wsc_v102_simple_eval" in registered.evaluated


def test_seqio_mixes_what_is_registered(published):
  import seqio

  registry.register(WSC_DPR, task_data_dir=published)
  mixture = seqio.MixtureRegistry.get(WSC_DPR)
  assert {task.name for task in mixture.tasks} == set(registry.mixture_tasks(WSC_DPR))
  rows = mixture.get_dataset({"inputs": 32, "targets": 8}, "train", shuffle=False, num_epochs=None)
  assert len(list(rows.take(3).as_numpy_iterator())) == 3


def test_tasks_whose_data_are_missing_are_named_and_the_others_go_on(published, tmp_path, caplog):
  shutil.copytree(published / "DPR", tmp_path / "DPR")
  (tmp_path / "WSC").mkdir()
  shutil.copy(published / "WSC" / "train.jsonl", tmp_path / "WSC")
  registered = registry.register(
    WSC_DPR, task_data_dir=tmp_path, tfds_data_dir=str(tmp_path / "none")
  )
  assert set(registered.rates) == {"dpr_v001_simple", "super_glue_wsc_v102_simple_train"}
  assert registered.evaluated == ()
  assert f"super_glue_wsc_v102_simple_eval is left out of {WSC_DPR}" in caplog.text
  assert "val.jsonl" in caplog.text


@pytest.mark.parametrize("name", [WSC_DPR, "super_glue_boolq_v102"])
def test_where_nothing_is_there_both_ways_are_named(tmp_path, name):
  with pytest.raises(errors.DataError, match=r"TASK_DATA_DIR(.|\n)*tfds build"):
    registry.register(name, task_data_dir=tmp_path, tfds_data_dir=str(tmp_path))


def test_a_missing_vocabulary_is_named(published, tmp_path):
  with pytest.raises(errors.DataError, match=r"gone\.model"):
    registry.register(
      "super_glue_boolq_v102",
      task_data_dir=published,
      vocabulary_path=str(tmp_path / "gone.model"),
    )
