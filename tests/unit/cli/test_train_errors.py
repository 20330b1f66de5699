# SPDX-License-Identifier: Apache-2.0
"""What a user can get wrong about a run: one clear error with the fix, and nothing is written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
import runs

DIVERGING = "--gin.learning_rate_schedule.base_learning_rate=1e30"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """Holds a run of two steps in model/ and its cache in data/."""
  folder = tmp_path_factory.mktemp("trained")
  code, output, errors = runs.run_here("train", *runs.tiny_flags(folder, TRAIN_STEPS=2))
  assert code == 0, output + errors
  return folder


@pytest.fixture
def folder(trained, tmp_path, monkeypatch):
  """The current folder: empty but for a few unusable files."""
  (tmp_path / "empty.txt").touch()
  (tmp_path / "latin1.txt").write_bytes("a caf\xe9\n".encode("latin1"))
  (tmp_path / "short.txt").write_text("one line\n")
  (tmp_path / "empty.gin").touch()
  (tmp_path / "a_file").write_text("x")
  monkeypatch.chdir(tmp_path)
  return tmp_path


def refused(folder, flags, *named, code=2, mode="train", **macros):
  """Asserts that a run is refused with one clear error that has the words `named`."""
  before = runs.snapshot(folder)
  given = {"MODEL_DIR": "model", "TASK_DATA_DIR": str(folder.parent / "caches"), **macros}
  found, _, errors = runs.run_here(mode, *runs.tiny_flags(folder, **given), *flags)
  assert found == code, errors
  assert errors.startswith("switch_t5: ") and errors.count("switch_t5: ") == 1
  assert "  rule: " in errors or "  remedy: " in errors
  for words in named:
    assert words in errors
  assert "Traceback" not in errors
  assert runs.snapshot(folder) == before


@pytest.mark.smoke
@pytest.mark.parametrize(
  ("flag", "named"),
  [
    ("--gin.ModelConfig.d_modle=16", ("ModelConfig.d_modle", "Did you mean d_model?")),
    ("--gin.TRAIN_STEP=3", ("TRAIN_STEP", "nothing uses", "Did you mean TRAIN_STEPS?")),
    ("--gin.MY_MACRO=3", ("MY_MACRO", "nothing uses this macro")),
    ("--gin.TRAIN_STEPS=%STEPS", ("%STEPS", "not defined", "Known: ")),
    ("--gin_file=recipes/pretrain_dem.gin", ("pretrain_dem.gin", "recipes/pretrain_demo.gin")),
    ("--gin.MODEL_DIR=out", ("needs quotes",)),
    ("--platform=tpu", ("tpu", "JAX found cpu only", "--platform=cpu")),
    ("--process_count=2", ("--coordinator_address",)),
    ("--gin.train.parameter_sharding='fdsp'", ("'replicated', 'fsdp'",)),
    ("--gin.train.optimizer=@adam", ("@adam", "config --list")),
    ("--gin.train.model=@ModelConfig", ("train.model", "@ModelConfig()")),
    ("--gin.ModelConfig.activation_dtype=[]", ("activation_dtype = []", "a text in quotes")),
    ("--gin.LossConfig.z_loss='x'", ("LossConfig.z_loss = 'x'", "a number")),
    ("--gin.learning_rate_schedule.factors='constnat'", ("constnat", "Did you mean constant?")),
    ("--gin.ModelConfig.sequences_per_group=3", ("BATCH_SIZE of", "sequences per group")),
  ],
)
def test_a_mistaken_flag(folder, flag, named):
  refused(folder, [flag], *named)


def test_split_parameters_that_do_not_divide(folder):
  flags = ["--gin.train.parameter_sharding='fsdp'"]
  named = (
    "params/decoder/",
    "attention/key/kernel",
    "'embed' has size 16",
    "'replicated'",
    "data of 1, 2",
  )
  refused(folder, flags, *named, MESH_SHAPE=(3, 1, 1), BATCH_SIZE=12)


def test_a_misspelt_mode(folder):
  refused(folder, [], "trian", "Did you mean train?", mode="trian")


@pytest.mark.parametrize("flags", [[], ["--gin_file=empty.gin"]])
def test_no_configuration(folder, flags):
  before = runs.snapshot(folder)
  code, _, errors = runs.run_here("train", *flags)
  assert code == 2
  assert "train.model_dir" in errors and "--gin.train.model_dir=VALUE" in errors
  assert runs.snapshot(folder) == before


@pytest.mark.smoke
@pytest.mark.parametrize(
  ("macro", "value", "named"),
  [
    ("TRAIN_STEPS", 0, ("train.total_steps = 0", "at least 1")),
    ("TRAIN_STEPS", -1, ("train.total_steps = -1",)),
    ("TRAIN_STEPS", 10.0, ("train.total_steps = 10.0", "a whole number")),
    ("TRAIN_STEPS", True, ("train.total_steps = True",)),
    ("BATCH_SIZE", -8, ("-8", "at least 1")),
    ("BATCH_SIZE", 8.0, ("DatasetConfig.batch_size = 8.0", "a whole number")),
    ("LOG_PERIOD", 0, ("train.log_period = 0", "at least 1")),
    ("CHECKPOINT_PERIOD", 0, ("train.checkpoint_period = 0",)),
    ("NUM_MICROBATCHES", 0, ("train.num_microbatches = 0",)),
    ("SEED", 2**70, (str(2**70), "less than 2**32")),
    ("SEED", -1, ("at least 0",)),
    ("MODEL_DIR", "", ("train.model_dir = ''", "a path in quotes")),
    ("MODEL_DIR", 3, ("train.model_dir = 3", "a text in quotes")),
    ("MODEL_DIR", "hdfs://cluster/run", ("hdfs://cluster/run", "gs:// or s3://")),
    ("TEXT_FILES", 3, ("DatasetConfig.text_files = 3", "a text in quotes")),
    ("TEXT_FILES", [3], ("[3]", "a glob in quotes")),
    ("TEXT_FILES", "", ("needs text files", "'my/*.txt'")),
    ("MIXTURE_OR_TASK_NAME", "text_span_corupted", ("Did you mean text_span_corruption",)),
    ("MIXTURE_OR_TASK_NAME", None, ("mixture_or_task_name = None", "a text in quotes")),
    ("TASK_DATA_DIR", 3, ("DatasetConfig.task_data_dir = 3", "a text in quotes")),
    ("TASK_FEATURE_LENGTHS", 32, ("TASK_FEATURE_LENGTHS", "32", "a dictionary")),
    ("TASK_FEATURE_LENGTHS", {"input": 32, "targets": 8}, ("inputs",)),
    ("TASK_FEATURE_LENGTHS", {"inputs": -32, "targets": 8}, ("at least 3", "raise 'inputs'")),
    (
      "TASK_FEATURE_LENGTHS",
      {"inputs": 64, "targets": 8},
      ("inputs=64, targets=8", "set targets=14"),
    ),
    ("NUM_EXPERTS", 0, ("0 experts, 2 sparse layers", "where there are sparse layers")),
    ("DROPOUT_RATE", 1.0, ("dropout_rate", "less than 1")),
    ("MESH_SHAPE", (4, 4, 1), ("16 devices", "there are 8", "--emulate_devices=16")),
    ("MESH_SHAPE", (1, 1), ("(1, 1)", "three positive whole numbers")),
    ("MESH_SHAPE", (1.0, 1, 1), ("(1.0, 1, 1)",)),
    ("MESH_SHAPE", (1, 1, 8), ("num_heads = 4, 8 devices", "model of 1, 2, 4")),
  ],
)
def test_a_mistaken_value(folder, macro, value, named):
  refused(folder, [], *named, **{macro: value})


def test_a_batch_that_does_not_divide(folder):
  refused(folder, [], "BATCH_SIZE 6", "BATCH_SIZE of 4 or 8", BATCH_SIZE=6, MESH_SHAPE=(4, 1, 1))


def test_odd_heads_over_the_model_axis(folder):
  flags = ["--gin.ModelConfig.num_heads=3"]
  refused(folder, flags, "num_heads = 3, 2 devices", "model of 1", MESH_SHAPE=(1, 1, 2))


@pytest.mark.parametrize(
  ("files", "named"),
  [
    ("nowhere/*.txt", ("nowhere/*.txt", "correct TEXT_FILES")),
    (".", ("No text file matches",)),
    ("empty.txt", ("empty.txt", "is empty")),
    ("latin1.txt", ("latin1.txt, line 1 (byte 5)", "iconv -f LATIN1")),
    ("short.txt", ("smaller than one row", "give more text")),
  ],
)
def test_unusable_text(folder, files, named):
  refused(folder, [], *named, code=3, TEXT_FILES=files)


def test_a_validation_split_smaller_than_a_row_is_refused_before_training(folder):
  lengths = {"inputs": 400, "targets": 200}
  refused(folder, [], "validation split", code=3, TASK_FEATURE_LENGTHS=lengths)


def test_a_vocabulary_larger_than_the_models(folder):
  flags = ["--gin.ModelConfig.vocab_size=8000"]
  refused(folder, flags, "8100 ids", "ModelConfig.vocab_size = 8100", code=3)


@pytest.mark.parametrize("path", ["a_file", "a_file/model"])
def test_a_model_dir_that_is_no_directory(folder, path):
  refused(folder, [], f"MODEL_DIR = {path}", "cannot be written", MODEL_DIR=path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_model_dir_that_is_not_writable(folder):
  (folder / "locked").mkdir(mode=0o500)
  refused(folder, [], "Permission denied", MODEL_DIR="locked/model")


def test_a_model_dir_where_nothing_can_be_made(folder):
  refused(folder, [], "MODEL_DIR = /proc/model", "cannot be written", MODEL_DIR="/proc/model")


def test_two_runs_in_one_model_dir(folder, trained):
  copy_of(trained, folder)
  holder = hold(folder / "model")
  try:
    refused(folder, [], "Another run", f"process {holder.pid}", "choose another MODEL_DIR")
  finally:
    holder.kill()
    holder.communicate()


def hold(model_dir):
  """Starts a process that holds the lock of a MODEL_DIR."""
  program = (
    "import sys; from switch_t5.checkpoint.run_lock import RunLock\n"
    "with RunLock(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
  )
  holder = subprocess.Popen(
    [sys.executable, "-c", program, str(model_dir)],
    cwd=runs.ROOT,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  assert holder.stdout.readline() == "held\n"
  return holder


def copy_of(trained, folder):
  shutil.copytree(trained / "model", folder / "model")


def test_a_checkpoint_of_another_shape(folder, trained):
  copy_of(trained, folder)
  named = ("~ params/", "attention/key/kernel  float32[1,16,16] -> float32[1,16,32]", "config.gin")
  refused(folder, ["--gin.ModelConfig.d_kv=8"], *named, code=3)
  refused(folder, ["--gin.ModelConfig.num_decoder_layers=2"], "~ ", "another MODEL_DIR", code=3)


def test_changed_data_on_resume(folder, trained):
  copy_of(trained, folder)
  changed = folder / "fixture.txt"
  changed.write_text(runs.TEXT.read_text() + "\n\nOne more document, which was not there before.\n")
  refused(folder, [], "source", "another MODEL_DIR", code=3, TEXT_FILES=str(changed))
  refused(folder, [], "seed: 0, now 1", "SEED", code=3, SEED=1)


def test_a_diverging_run_stops_and_its_last_good_checkpoint_stays(folder, trained):
  copy_of(trained, folder)
  before = runs.snapshot(folder / "model" / "checkpoints")
  flags = runs.tiny_flags(folder, TASK_DATA_DIR=str(trained / "data"), CHECKPOINT_PERIOD=1)
  code, _, errors = runs.run_here("train", *flags, DIVERGING)
  assert code == 4
  assert "not finite" in errors and "lower learning rate" in errors and "Traceback" not in errors
  after = runs.snapshot(folder / "model" / "checkpoints")
  kept = {name: content for name, content in after.items() if name in before}
  assert kept == before
  assert not [name for name in after if "tmp" in name]  # a save that had begun was finished
  code, output, _ = runs.run_here("checkpoint", "verify", "model")
  assert code == 0
  assert "checkpoint_2" in output


def test_evaluating_what_was_never_trained(folder):
  refused(folder, [], "no checkpoint to evaluate", "set MODEL_DIR", code=3, mode="eval")
