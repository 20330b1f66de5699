# SPDX-License-Identifier: Apache-2.0
"""Distillation from one end to the other: a Switch teacher, a dense student, and what is refused."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import damage
import pytest
import runs

from switch_t5.data.vocabulary import embedded_vocabulary_path
from switch_t5.metrics.writer import METRICS_FILE, read_metrics

DENSE = [
  "--gin.NUM_EXPERTS=0",
  "--gin.ModelConfig.num_encoder_sparse_layers=0",
  "--gin.ModelConfig.num_decoder_sparse_layers=0",
  "--gin.ModelConfig.sequences_per_group=None",
]
TAUGHT = ["--gin_bindings=train.distillation = @Distillation()"]

pytestmark = pytest.mark.smoke


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Holds a teacher of three steps in model/, and its student of three steps in student/."""
  folder = tmp_path_factory.mktemp("distilled")
  code, output, errors = runs.run_here("train", *runs.tiny_flags(folder, TRAIN_STEPS=3))
  assert code == 0, output + errors
  before = runs.snapshot(folder / "model")
  code, output, errors = runs.run_here("train", *flags(folder))
  assert code == 0, output + errors
  assert runs.snapshot(folder / "model") == before  # the teacher's folder is only read
  (folder / "output.txt").write_text(output + errors)
  return folder


def flags(folder, *more, **macros) -> list[str]:
  """Returns the flags of a student of the teacher in model/."""
  given = {"MODEL_DIR": str(folder / "student"), "TRAIN_STEPS": 3} | macros
  teacher = f"--gin.Distillation.teacher_path='{folder / 'model'}'"
  return [*runs.tiny_flags(folder, **given), *DENSE, *TAUGHT, teacher, *more]


def test_the_run_says_who_teaches_and_what_it_takes(folder):
  output = (folder / "output.txt").read_text()
  (line,) = [line for line in output.splitlines() if line.startswith("Teacher:")]
  assert "Switch, 8 experts" in line and "MB of each device" in line and "checkpoint_3" in line


def test_the_losses_are_the_mix_of_hard_and_soft(folder):
  for row in read_metrics(folder / "student" / METRICS_FILE):
    if "train/loss" not in row:
      continue
    hard, soft = row["train/cross_entropy"], row["train/soft_cross_entropy"]
    assert row["train/loss"] == pytest.approx(
      0.75 * hard + 0.25 * soft + row["train/z_loss"], rel=1e-5
    )
    assert 0 < soft < 1.2 * math.log(8192)


def test_the_record_names_the_teacher_and_its_content(folder):
  (start,) = json.loads((folder / "student" / "run.json").read_text())["starts"]
  assert start["teacher"]["path"].endswith("checkpoint_3")
  assert len(start["teacher"]["fingerprint"]) == 64
  assert start["data"]["teacher"] == start["teacher"]["fingerprint"]


def test_from_a_cache_of_all_ids_it_learns_the_same(folder, tmp_path):
  cache = f"--gin.Distillation.teacher_cache={str(tmp_path / 'cache')!r}"
  exact = ["num_rows=24", "top_k=8100", "probs_dtype='float32'"]
  whole = [f"--gin.cache_teacher.{binding}" for binding in exact]
  given = flags(folder, cache, *whole, MODEL_DIR=str(tmp_path / "cached"))
  for mode in ("cache_teacher", "train"):
    code, output, errors = runs.run_here(mode, *given)
    assert code == 0, output + errors
  live, cached = (
    [row for row in read_metrics(path / METRICS_FILE) if "train/loss" in row]
    for path in (folder / "student", tmp_path / "cached")
  )
  for one, other in zip(live, cached, strict=True):
    for name in ("train/loss", "train/soft_cross_entropy", "train/cross_entropy"):
      assert other[name] == pytest.approx(one[name], rel=1e-5), (one["step"], name)


def test_a_run_does_not_go_on_with_another_teacher(folder, tmp_path):
  code, output, errors = runs.run_here(
    "train", *runs.tiny_flags(folder, MODEL_DIR=str(tmp_path / "other"), TRAIN_STEPS=1)
  )
  assert code == 0, output + errors
  other = f"--gin.Distillation.teacher_path='{tmp_path / 'other'}'"
  code, _, errors = runs.run_here("train", *flags(folder, other, TRAIN_STEPS=4))
  assert code == 3
  assert "teacher: " in errors and "another MODEL_DIR" in errors


def test_a_damaged_teacher_is_refused(folder, tmp_path):
  shutil.copytree(folder / "model", tmp_path / "model")
  (largest,) = sorted((tmp_path / "model").rglob("d/*"), key=lambda path: path.stat().st_size)[-1:]
  damage.flip_a_bit(largest)
  teacher = f"--gin.Distillation.teacher_path='{tmp_path / 'model'}'"
  code, _, errors = runs.run_here("train", *flags(folder, teacher, MODEL_DIR=str(tmp_path / "new")))
  assert code == 3 and largest.name in errors
  assert not (tmp_path / "new").exists()


def test_a_teacher_of_another_vocabulary_is_refused(folder, tmp_path):
  other = tmp_path / "other.model"
  other.write_bytes(Path(embedded_vocabulary_path()).read_bytes() + b"\x1a\x00")
  code, _, errors = runs.run_here(
    "train", *flags(folder, MODEL_DIR=str(tmp_path / "new"), VOCABULARY_PATH=str(other))
  )
  assert code == 3 and "another vocabulary" in errors and "other.model" in errors
  assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
  "binding, said",
  [
    ("fraction_soft=1.5", "a number from 0 to 1"),
    ("fraction_soft=-0.1", "a number from 0 to 1"),
    ("temperature=0", "a number above 0"),
    ("temperature=-1.0", "a number above 0"),
    ("temperature=float('nan')", "Distillation.temperature"),
    ("teacher_dtype='float16'", "'float32', 'bfloat16'"),
    ("teacher_sharding='split'", "'replicated', 'fsdp'"),
    ("teacher_path=None", "There is no teacher"),
    ("teacher_path='not/there'", "not/there"),
  ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(folder, tmp_path, binding, said):
  model = tmp_path / "model"
  code, _, errors = runs.run_here(
    "train", *flags(folder, f"--gin.Distillation.{binding}", MODEL_DIR=str(model))
  )
  assert code in (2, 3), errors
  assert said in errors and "Traceback" not in errors
  assert not model.exists()
