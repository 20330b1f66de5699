# SPDX-License-Identifier: Apache-2.0
"""What a sweep is told, what it refuses before anything is trained, and its trials as runs."""

from __future__ import annotations

import shlex

import pytest
import runs

SWEEP = ("study", "sweep", "--gin_file=studies/switch_test.gin")
RATE = "learning_rate_schedule.base_learning_rate"


def trials_of(*argv):
  """Returns the bindings of each command that --dry_run prints."""
  code, output, errors = runs.run_here(*SWEEP, *argv, "--dry_run")
  assert code == 0, errors
  return [shlex.split(line) for line in output.splitlines()[1:]]


def test_all_combinations_are_trials_of_their_own():
  commands = trials_of(f"--vary.{RATE}=[0.3, 1.0]", "--vary.NUM_EXPERTS=[4, 8]")
  assert len(commands) == 4
  assert f"--gin.{RATE}=1.0" in commands[3] and "--gin.NUM_EXPERTS=8" in commands[3]


def test_values_may_be_references_texts_and_scoped_bindings():
  commands = trials_of(
    "--vary.train.optimizer=[@adafactor, @adamw]",
    "--vary.encoder/RouterConfig.kind=['top_k', 'hash']",
  )
  assert "--gin.train.optimizer=@adamw" in commands[2]
  assert "--gin.encoder/RouterConfig.kind='hash'" in commands[3]


def test_random_trials_lie_in_their_ranges_and_are_the_same_again():
  argv = (f"--vary.{RATE}=(0.01, 1.0)", "--random=5")
  commands = trials_of(*argv)
  assert len(commands) == 5 and commands == trials_of(*argv)


@pytest.mark.parametrize(
  ("argv", "said"),
  [
    ([], "varies nothing"),
    (["--vary.learning_rate_schedule.base_rate=[1, 2]"], "has no such parameter"),
    (["--vary.NUM_EXPERT=[1, 2]"], "NUM_EXPERTS"),
    (["--vary.NUM_EXPERTS=4"], "no values to try"),
    (["--vary.NUM_EXPERTS=(8, 4)", "--random=3"], "no values to try"),
    (["--vary.NUM_EXPERTS=(4, 8)"], "--random=N draws"),
    (["--vary.NUM_EXPERTS=[4]"], "one trial"),
    (["--vary.TRAIN_STEPS=[4, 8]"], "sets this itself"),
    (["--vary.NUM_EXPERTS=[4, 8]", "--gin.NUM_EXPERTS=4"], "sets this itself"),
    (["--vary.ModelConfig.init_scale=[0.1, -1.0]"], "init_scale"),
    (["--vary.NUM_EXPERTS=[4, 8]", "--random=1"], "random"),
  ],
)
def test_a_sweep_that_cannot_be_run_is_refused_before_anything_is_written(argv, said, tmp_path):
  code, _, errors = runs.run_here(*SWEEP, *argv, f"--to={tmp_path / 'sweep'}")
  assert code == 2 and said in errors
  assert not (tmp_path / "sweep").exists()


def test_a_sweep_without_files_says_which_it_needs():
  code, _, errors = runs.run_here("study", "sweep", "--vary.NUM_EXPERTS=[4, 8]")
  assert code == 2 and "files of a run" in errors


def test_other_studies_do_not_vary():
  code, _, errors = runs.run_here("study", "balance", "--vary.NUM_EXPERTS=[4, 8]")
  assert code == 2 and "sweep" in errors
