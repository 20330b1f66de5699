# SPDX-License-Identifier: Apache-2.0
"""A run that streams C4: stopped and resumed it is the same run; what it cannot read is refused."""

from __future__ import annotations

import c4_form
import pytest
import runs

pytestmark = [pytest.mark.smoke, pytest.mark.filterwarnings("ignore")]  # TensorFlow's own


@pytest.fixture(scope="module")
def tfds_data_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tfds")
  c4_form.prepare(folder, "en", "2.2.0", {"train": 60, "validation": 20})
  return folder


def flags(folder, tfds_data_dir, **macros):
  """Returns the flags of four tiny steps on streamed C4."""
  given = {
    "MIXTURE_OR_TASK_NAME": "c4_v220_span_corruption",
    "TFDS_DATA_DIR": str(tfds_data_dir),
    "TEXT_FILES": None,
    "TRAIN_STEPS": 4,
    "CHECKPOINT_PERIOD": 2,
    "EVAL_PERIOD": 4,
  } | macros
  streaming = ["--gin.DatasetConfig.reader='streaming'", "--gin.train.eval_steps=2"]
  return runs.tiny_flags(folder, **given) + streaming


def test_two_steps_and_two_more_are_four(tmp_path, tfds_data_dir):
  code, output, errors = runs.run_here("train", *flags(tmp_path / "one", tfds_data_dir))
  assert code == 0, output + errors
  assert "streamed from tfds c4/en:2.2.0, train 60, validation 20" in output
  for steps in (2, 4):
    given = flags(tmp_path / "two", tfds_data_dir, TRAIN_STEPS=steps)
    code, output, errors = runs.run_here("train", *given)
    assert code == 0, output + errors
  assert "Resuming from step 2" in output
  one, two = (tmp_path / name / "model" for name in ("one", "two"))
  assert runs.losses(one) == runs.losses(two)
  assert runs.differing(runs.arrays(one, 4), runs.arrays(two, 4)) == []
  assert not (tmp_path / "one" / "data").exists()  # nothing was cached
  refused_with_the_other_reader(tmp_path / "two", tfds_data_dir)


def refused_with_the_other_reader(folder, tfds_data_dir):
  given = flags(folder, tfds_data_dir, TRAIN_STEPS=6)
  code, _, errors = runs.run_here("train", *given, "--gin.DatasetConfig.reader='indexed'")
  assert code == 3
  assert "reader: streaming, now None" in errors and "another MODEL_DIR" in errors


@pytest.mark.parametrize("reader", ["streaming", "indexed"])
def test_c4_that_is_not_there_is_refused_before_anything_is_written(tmp_path, reader):
  given = flags(tmp_path, tmp_path / "nowhere")
  code, _, errors = runs.run_here("train", *given, f"--gin.DatasetConfig.reader={reader!r}")
  assert code == 3
  assert errors.startswith("switch_t5: The data set c4/en:2.2.0 is not there.")
  assert str(tmp_path / "nowhere" / "c4" / "en" / "2.2.0") in errors
  assert "remedy: set TFDS_DATA_DIR" in errors
  assert list(tmp_path.iterdir()) == []


def test_a_reader_that_does_not_exist(tmp_path):
  given = flags(tmp_path, tmp_path)
  code, _, errors = runs.run_here("train", *given, "--gin.DatasetConfig.reader='streamed'")
  assert code == 2
  assert "Did you mean streaming?" in errors
