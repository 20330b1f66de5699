# SPDX-License-Identifier: Apache-2.0
"""A run's first state is a student's: of its teacher's parameters, and of the experts it chooses most."""

from __future__ import annotations

import itertools
import pathlib

import numpy as np
import pytest
import runs
import stored

from switch_t5.cli import gin_setup
from switch_t5.cli.configurables import CONFIGURABLES
from switch_t5.cli.session import open_session
from switch_t5.cli.student import LOAD_BATCHES
from switch_t5.cli.train import Run
from switch_t5.data.vocabulary import embedded_vocabulary_path
from switch_t5.interop import detect
from switch_t5.training.goodput import Ledger

DENSE = {
  "NUM_EXPERTS": 0,
  "ModelConfig.num_encoder_sparse_layers": 0,
  "ModelConfig.num_decoder_sparse_layers": 0,
  "ModelConfig.sequences_per_group": None,
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
  """The folder of a Switch model of random numbers, small enough not to overflow."""
  checkpoint = stored.checkpoint(stored.small(), adafactor=False)
  for name, array in checkpoint.parameters().items():
    checkpoint.arrays[f"target/{name}"] = stored.array(array.read() / 4)
  return stored.write_run(tmp_path_factory.mktemp("teacher") / "model", checkpoint)


def flags(folder, teacher, **changes):
  macros = DENSE | {"INITIAL_CHECKPOINT_PATH": str(teacher)} | changes
  return runs.tiny_flags(folder, **macros)


def open_run(folder, teacher, as_teacher):
  """Returns a run that is about to begin."""
  given = flags(folder, teacher, **{"InitialCheckpoint.as_teacher": as_teacher})
  bindings = [flag.removeprefix("--gin.").replace("=", " = ", 1) for flag in given[1:]]
  config = gin_setup.load([str(runs.TINY)], bindings, [], CONFIGURABLES).call("train")
  run = Run(open_session(config), "", None, Ledger())
  run.open_initial_checkpoint()
  run.open_teacher()
  run.open_data()
  return run


def test_it_is_made_of_the_expert_that_most_tokens_choose(teacher, tmp_path, capsys):
  run = open_run(tmp_path, teacher, "most_used")
  with run.session.on_mesh():
    state = run.first_state(None)
  batches = list(itertools.islice(run.data.train_reader(run.session.rows), LOAD_BATCHES))
  arrays = detect.open_checkpoint(teacher).parameters()
  said = " ".join(capsys.readouterr().out.split())
  for stack in ("encoder", "decoder"):
    share = run.initial.shares[f"{stack}/layers_0"]
    load = share * sum((batch[f"{stack}_segment_ids"] > 0).sum() for batch in batches)
    np.testing.assert_allclose(load, np.round(load), atol=1e-2)  # every real token chose once
    assert len(set(load)) > 1
    for kernel in ("wi", "wo"):
      found = state.params[stack]["blocks"]["layers_0"]["mlp"][kernel]["kernel"]
      experts = arrays[f"{stack}/layers_0/mlp/expert/{kernel}/kernel"].read()
      np.testing.assert_array_equal(found[0], experts[np.argmax(load)])
    assert f"{stack}/mlp expert {np.argmax(load)} of 4, the most used: {share.max():.0%}" in said
  np.testing.assert_array_equal(
    state.params["token_embedder"]["embedding"], arrays["token_embedder/embedding"].read()
  )
  # The data of the run begin at their first row all the same.
  np.testing.assert_array_equal(
    next(run.reader)["encoder_input_tokens"], batches[0]["encoder_input_tokens"]
  )


WRONG = {
  "a misspelt way": ({"InitialCheckpoint.as_teacher": "most_usde"}, 2, "Did you mean most_used"),
  "with the optimizer": ({"InitialCheckpoint.restore_optimizer": True}, 2, "parameters alone"),
  "with a map": ({"InitialCheckpoint.assignment_map": ((".*", None),)}, 2, "parameters alone"),
  "no teacher": ({"INITIAL_CHECKPOINT_PATH": "not/there"}, 3, "not/there"),
  "another width": ({"ModelConfig.d_model": 32}, 3, "d_model = 16 in"),
  "another size of vocabulary": ({"ModelConfig.vocab_size": 9000}, 3, "8,192 rows in"),
}


@pytest.mark.parametrize("changes, code, said", WRONG.values(), ids=WRONG)
def test_what_cannot_be_is_refused_before_anything_is_written(
  changes, code, said, teacher, tmp_path
):
  given = flags(tmp_path, teacher, **{"InitialCheckpoint.as_teacher": "fresh"} | changes)
  found, _, errors = runs.run_here("train", *given)
  assert found == code, errors
  assert said in errors
  assert not (tmp_path / "model").exists()


def test_a_teacher_of_another_vocabulary_is_refused(teacher, tmp_path):
  other = tmp_path / "other.model"
  other.write_bytes(pathlib.Path(embedded_vocabulary_path()).read_bytes() + b"\x1a\x00")
  changes = {"InitialCheckpoint.as_teacher": "fresh", "VOCABULARY_PATH": str(other)}
  code, _, errors = runs.run_here("train", *flags(tmp_path, teacher, **changes))
  assert code == 3
  assert "another vocabulary than its teacher" in errors and "spiece.model" in errors
  assert not (tmp_path / "model").exists()
