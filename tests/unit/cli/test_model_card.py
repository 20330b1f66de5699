# SPDX-License-Identifier: Apache-2.0
"""The card of an exported model: what a run's folder says, and names that would break a page."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from switch_t5.cli import model_card
from switch_t5.interop import detect, own
from switch_t5.interop.checkpoint import STEP, StoredArray, StoredCheckpoint
from switch_t5.model.config import ModelConfig

MODEL = ModelConfig(
  vocab_size=100,
  d_model=8,
  d_ff=16,
  d_kv=4,
  num_heads=2,
  num_encoder_layers=1,
  num_decoder_layers=1,
)
STEP_5 = {STEP: StoredArray((), np.dtype(np.int32), lambda: np.asarray(5, np.int32))}
TEACHER = {"path": "runs/a|``b", "format": "Orbax", "fingerprint": "abc123"}


@pytest.fixture
def checkpoint(tmp_path):
  """A distilled run at step 5, which went on to step 10, and its checkpoint of step 5."""
  path = tmp_path / "checkpoints" / "checkpoint_5"
  path.mkdir(parents=True)
  starts = [
    {"step": 0, "teacher": TEACHER, "data": {"task": "x</td>\n# y"}, "versions": {"jax": "1"}},
    {"step": 7, "versions": {"jax": "2"}},
  ]
  (tmp_path / "run.json").write_text(json.dumps({"starts": starts}))
  rows = [{"step": 4, "eval/x/cross_entropy": 3.5}, {"step": 8, "eval/x/cross_entropy": 3.0}]
  (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  (path / "config.gin").write_text("MODEL_DIR = 'a ```` b'\n")
  return StoredCheckpoint(path, own.FORMAT, STEP_5)


def test_a_card_says_what_the_run_knew_when_the_checkpoint_was_saved(checkpoint):
  found = model_card.card(checkpoint, MODEL, 1234)
  assert found["teacher"] == TEACHER
  assert found["versions"] == {"jax": "1"}
  assert found["scores"] == {"step": 4, "eval/x/cross_entropy": 3.5}
  assert found["exported from"]["step"] == 5 and found["parameters"] == 1234
  assert found["architecture"]["d_model"] == 8
  assert "best" not in found
  assert json.loads(model_card.texts(found, detect.T5X)["model_card.json"])["teacher"] == TEACHER


def test_nothing_in_a_name_breaks_the_page(checkpoint):
  page = model_card.texts(model_card.card(checkpoint, MODEL, 1234), detect.T5X)["README.md"]
  assert r"| `task` | `x</td>\n# y` |" in page  # code, on one line
  assert r"| `path` | ``` runs/a\|``b ``` |" in page
  assert re.search(r"^`````gin\nMODEL_DIR = 'a ```` b'\n`````$", page, re.MULTILINE)


def test_front_matter_is_for_hugging_face_alone(checkpoint):
  found = model_card.card(checkpoint, MODEL, 1234)
  assert model_card.texts(found, detect.HUGGING_FACE)["README.md"].startswith("---\nlibrary_name:")
  assert model_card.texts(found, detect.SAFETENSORS)["README.md"].startswith("# ")


def test_of_a_checkpoint_without_a_run_only_the_model_is_known(tmp_path):
  found = model_card.card(StoredCheckpoint(tmp_path, "T5X, native", STEP_5), MODEL, 1234)
  assert found.keys() == {"architecture", "parameters", "exported from"}
  (tmp_path / "run.json").write_text("{")  # of a run of ours, but broken
  broken = StoredCheckpoint(tmp_path / "checkpoints" / "checkpoint_5", own.FORMAT, STEP_5)
  assert model_card.card(broken, MODEL, 1234).keys() == found.keys()
