# SPDX-License-Identifier: Apache-2.0
"""A batch whose step is bad is left out: the run ends as one whose data never had it."""

from __future__ import annotations

import json
import math

import jax.numpy as jnp
import pytest
import runs
from bad_data import MISSING, NOT_FINITE, bad_batches

from switch_t5.metrics.writer import METRICS_FILE, read_metrics
from switch_t5.training.bad_steps import BadSteps

STEPS = 12


@pytest.fixture
def train(tmp_path):
  """Trains in a folder of this name, on data with these bad batches or without them."""

  def train(name, numbers=(), how=NOT_FINITE, **macros):
    settings = {"TRAIN_STEPS": STEPS, "CHECKPOINT_PERIOD": 4, "EVAL_PERIOD": 100, "LOG_PERIOD": 3}
    flags = runs.tiny_flags(tmp_path, MODEL_DIR=str(tmp_path / name), **settings | macros)
    with bad_batches(numbers, how):
      code, output, errors = runs.run_here("train", *flags)
    return code, output + errors

  return train


@pytest.mark.parametrize("action", ["skip", "go_back"])
def test_a_run_without_its_bad_batches_ends_as_if_the_data_never_had_them(train, tmp_path, action):
  policy, bad = {"BadSteps.action": action}, (1, 6)  # before the first checkpoint, and after it
  code, output = train("bad", bad, **policy)
  assert code == 0, output
  code, expected = train("expected", bad, MISSING, **policy)
  assert code == 0, expected
  ends = [runs.arrays(tmp_path / name, STEPS) for name in ("bad", "expected")]
  assert runs.differing(*ends) == []
  assert "Left out: rows 8 to 15 of the data, after step 1: loss nan" in output
  assert "Left out: rows 48 to 55 of the data, after step 5: loss nan" in output
  record = json.loads((tmp_path / "bad" / "bad_batches.json").read_text())
  assert [(one["first_row"], one["last_row"], one["step"]) for one in record] == [
    (8, 15, 1),
    (48, 55, 5),
  ]
  rows = [read_metrics(tmp_path / name / METRICS_FILE) for name in ("bad", "expected")]
  assert all(math.isfinite(row["train/loss"]) for row in rows[0])
  assert rows[0][-1]["train/loss"] == rows[1][-1]["train/loss"]
  assert runs.run_here("report", str(tmp_path / "bad"))[0] == 0
  page = (tmp_path / "bad" / "report.html").read_text()
  assert "Left out: rows 48 to 55 of the data, after step 5" in page


@pytest.mark.parametrize("action", ["skip", "go_back"])
def test_a_run_that_left_a_batch_out_goes_on_with_the_right_ones(train, tmp_path, action):
  policy = {"BadSteps.action": action}
  assert train("bad", (2,), TRAIN_STEPS=5, **policy)[0] == 0
  code, output = train("bad", (2, 9), **policy)
  assert code == 0, output
  assert "Left out: rows 72 to" in output and "Left out: rows 16" not in output
  assert train("expected", (2, 9), MISSING, **policy)[0] == 0
  ends = [runs.arrays(tmp_path / name, STEPS) for name in ("bad", "expected")]
  assert runs.differing(*ends) == []


def test_more_bad_batches_than_may_be_left_out_end_the_run_and_name_each(train, tmp_path):
  policy = {"BadSteps.action": "skip", "BadSteps.most": 2}
  code, output = train("bad", (4, 5, 6, 7), **policy)
  assert code == 4
  assert "More batches are bad than may be left out." in output
  assert all(f"rows {8 * number} to" in output for number in (4, 5, 6))
  assert runs.last_step(tmp_path / "bad") == 3
  assert "Traceback" not in output


def test_a_record_that_is_damaged_is_an_error_that_names_it(train, tmp_path):
  (tmp_path / "bad").mkdir()
  (tmp_path / "bad" / "bad_batches.json").write_text('[{"first_row": 1}]')
  code, output = train("bad")
  assert code == 2 and "bad_batches.json" in output


@pytest.mark.parametrize(
  ("loss", "norms", "bad"),
  [
    (1.0, [3.0, 4.0], False),
    (math.nan, [3.0, 4.0], True),
    (math.inf, [3.0, 4.0], True),
    (1.0, [math.nan, 4.0], True),
    (1.0, [math.inf, 4.0], True),
    (2.5, [3.0, 4.0], True),
    (1.0, [3.0, 4.1], True),
  ],
)
def test_a_step_is_bad_if_loss_or_gradients_are_no_numbers_or_beyond_a_limit(loss, norms, bad):
  policy = BadSteps(max_loss=2.0, max_gradient_norm=5.0)
  assert bool(policy.is_bad(jnp.float32(loss), {"encoder": jnp.float32(norms)})) == bad


@pytest.mark.parametrize(
  ("binding", "said"),
  [
    ("BadSteps.action='skipp'", "'skip'"),
    ("BadSteps.most=-1", "at least 0"),
    ("BadSteps.max_loss=0", "above 0"),
    ("train.bad_steps=3", "@BadSteps()"),
  ],
)
def test_policies_that_are_none_are_refused(train, binding, said):
  name, _, value = binding.partition("=")
  code, output = train("refused", **{name: json.loads(value.replace("'", '"'))})
  assert code == 2 and said in output
