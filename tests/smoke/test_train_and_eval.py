# SPDX-License-Identifier: Apache-2.0
"""A small run from one end to the other: it learns, leaves what it should, and goes on exactly."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys

import jax
import pytest
import runs

from switch_t5.metrics.goodput import KINDS, whole_life
from switch_t5.metrics.writer import METRICS_FILE, read_lines, read_metrics

STEPS = 10
PUBLIC_NAMES = {
  "train/loss",
  "train/cross_entropy",
  "train/accuracy",
  "train/z_loss",
  "train/load_balance_loss",
  "train/router_z_loss",
  "train/fraction_dropped",
  "train/expert_load_max",
  "train/router_entropy",
  "train/router_confidence",
  "train/dead_experts",
  "train/gradient_norm",
  "train/learning_rate",
  "train/tokens_per_second",
  "train/model_flops_per_second",  # and no train/mfu: a CPU's peak is not known
  *(f"goodput/{kind}_seconds" for kind in KINDS),
  "goodput/start",
  "goodput/unix_time",
  "goodput/fraction",
}
TASK = "eval/text_span_corruption/"

pytestmark = pytest.mark.smoke


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Holds a run of ten steps in model/ and its cache in data/."""
  folder = tmp_path_factory.mktemp("run")
  code, output, errors = runs.run_here("train", *runs.tiny_flags(folder))
  assert code == 0, output + errors
  (folder / "output.txt").write_text(output)
  (folder / "errors.txt").write_text(errors)
  return folder


def test_the_loss_falls(folder):
  losses = runs.losses(folder / "model")
  assert list(losses) == list(range(1, STEPS + 1))
  assert losses[1] == pytest.approx(math.log(8192), abs=1.0)  # a model that knows nothing
  assert losses[STEPS] < losses[1] - 1.0


def test_metrics_have_their_public_names(folder):
  rows = read_metrics(folder / "model" / METRICS_FILE)
  routers = {f"router/{stack}/layer_0/mlp/entropy" for stack in ("encoder", "decoder")}
  for row in rows[:-1]:
    assert routers <= row.keys()
    assert {n for n in row if not n.startswith("router/")} == {"step"} | PUBLIC_NAMES
  assert {TASK + "cross_entropy", TASK + "accuracy"} <= rows[-1].keys()
  assert all(math.isfinite(value) for row in rows for value in row.values())


def test_the_run_leaves_its_files(folder):
  names = {path.name for path in (folder / "model").iterdir()}
  lasting = {"checkpoints", "config.gin", "events", METRICS_FILE, "pieces.json", "run.json"}
  assert names == lasting | {"run.lock"}
  saved = {path.name for path in (folder / "model" / "checkpoints").iterdir()}
  assert saved == {"checkpoint_5", "checkpoint_10"}
  assert any((folder / "model" / "events").iterdir())
  record = json.loads((folder / "model" / "run.json").read_text())
  assert record["restarts"] == 0
  (start,) = record["starts"]
  assert start["mesh"] == {"data": 1, "expert": 1, "model": 1}
  assert {"jax", "flax", "switch_t5", "python"} <= start["versions"].keys()
  assert start["data"]["task"] == "text_span_corruption"


def test_what_experts_take_is_counted_on_held_out_text(folder):
  pieces = json.loads((folder / "model" / "pieces.json").read_text())
  assert pieces["step"] == STEPS
  assert list(pieces["routers"]) == ["encoder/layer_0/mlp", "decoder/layer_0/mlp"]
  for experts in pieces["routers"].values():
    top = dict(found for expert in experts for found in expert["top"])
    assert sum(expert["tokens"] for expert in experts) > 20
    assert all(0 < share <= 1 for share in top.values())
    assert any(piece.startswith("\N{LOWER ONE EIGHTH BLOCK}") for piece in top)


def test_the_run_becomes_a_page_of_its_own(folder, tmp_path):
  page = tmp_path / "page.html"
  code, output, errors = runs.run_here("report", str(folder / "model"), f"--to={page}")
  assert code == 0, output + errors
  text = page.read_text()
  assert f"Step {STEPS} of {STEPS}, " in text
  assert "Load of the experts of encoder/layer_0/mlp over the steps" in text
  assert "checkpoint" in text.lower() and "Goodput" in text
  assert "decoder/layer_0/mlp: what each expert takes" in text
  model_dirs = [str(folder / "model")] * 2
  assert runs.run_here("report", *model_dirs, f"--to={page}")[0] == 0
  assert "<h2>Compared</h2>" in page.read_text()


def test_a_torn_line_of_metrics_is_passed_over_by_a_page_and_no_metrics_are_an_error(
  folder, tmp_path
):
  torn = tmp_path / "torn"
  torn.mkdir()
  (torn / METRICS_FILE).write_bytes((folder / "model" / METRICS_FILE).read_bytes() + b'{"step": 1')
  assert runs.run_here("report", str(torn))[0] == 0
  assert (torn / "report.html").exists()
  (torn / METRICS_FILE).unlink()
  code, _, errors = runs.run_here("report", str(torn))
  assert code == 3
  assert "There are no metrics to report." in errors


def test_the_time_of_the_run_is_accounted_for(folder):
  rows = read_lines(folder / "model" / METRICS_FILE)
  life = whole_life(rows, json.loads((folder / "model" / "run.json").read_text())["starts"])
  assert rows[-1]["goodput/done"] == 1.0
  assert life.goodput == pytest.approx(rows[-1]["goodput/fraction"], rel=1e-2)
  assert all(life.seconds[kind] > 0 for kind in KINDS)
  said = [line for line in (folder / "errors.txt").read_text().splitlines() if "Goodput" in line]
  assert len(said) == 1 and ": compilation " in said[0]


def test_the_output_says_what_happens(folder):
  output, errors = (folder / "output.txt").read_text(), (folder / "errors.txt").read_text()
  assert "Switch, 8 experts" in output
  assert "Starting from new parameters (seed 0)" in output
  steps = [int(step) for step in re.findall(r"^step (\d+)/10  loss \d", errors, re.MULTILINE)]
  assert steps == list(range(1, STEPS + 1))
  assert f"Done: step {STEPS}" in errors


def test_eval_gives_what_training_measured(folder):
  written = read_metrics(folder / "model" / METRICS_FILE)[-1]
  code, output, _ = runs.run_here("eval", *runs.tiny_flags(folder), "--json")
  assert code == 0
  measured = json.loads(output)
  assert measured.pop("step") == STEPS
  assert measured == {name: value for name, value in written.items() if name.startswith("eval/")}


def test_eval_goes_by_the_saved_configuration(folder):
  code, output, _ = runs.run_here("eval", f"--gin_file={folder}/model/config.gin")
  assert code == 0
  assert "Checkpoint 10" in output and TASK + "cross_entropy" in output


def test_checkpoints_are_listed_and_verified(folder):
  model = str(folder / "model")
  for action in ("ls", "verify"):
    code, output, _ = runs.run_here("checkpoint", action, model)
    assert code == 0
    assert re.findall(r"checkpoint_\d+", output) == ["checkpoint_5", "checkpoint_10"]
    code, output, _ = runs.run_here("checkpoint", action, model, "--json")
    assert code == 0
    infos = json.loads(output)
    assert [info["step"] for info in infos] == [5, 10]
    assert [info["problems"] for info in infos] == [[] if action == "verify" else None] * 2


def test_cache_says_what_it_holds(folder):
  code, output, _ = runs.run_here("cache", *runs.tiny_flags(folder))
  assert code == 0
  assert re.search(r"train +\d+ documents +[\d,]+ tokens", output)
  assert re.search(r"validation +\d+ documents +[\d,]+ tokens", output)


def test_config_prints_every_binding(folder):
  code, output, _ = runs.run_here("config", *runs.tiny_flags(folder), "--json")
  assert code == 0
  shown = json.loads(output)
  assert shown["bindings"]["train.total_steps"] == STEPS
  assert shown["macros"]["BATCH_SIZE"] == 8


def test_five_steps_and_five_more_are_ten(folder, tmp_path):
  flags = runs.tiny_flags(tmp_path, TASK_DATA_DIR=str(folder / "data"))
  code, _, _ = runs.run_here("train", *flags, "--gin.TRAIN_STEPS=5")
  assert code == 0
  code, output, _ = runs.run_here("train", *flags)
  assert code == 0
  assert "Resuming from step 5" in output
  assert "TRAIN_STEPS = 10" in output  # it is told what has changed
  resumed = runs.arrays(tmp_path / "model", STEPS)
  assert runs.differing(resumed, runs.arrays(folder / "model", STEPS)) == []
  assert runs.losses(tmp_path / "model") == runs.losses(folder / "model")
  assert json.loads((tmp_path / "model" / "run.json").read_text())["restarts"] == 1


def test_a_run_with_split_parameters_goes_on_with_whole_ones_and_back(folder, tmp_path):
  """Trained split over data, then whole; evaluated split: the numbers of one device throughout."""
  whole = runs.tiny_flags(tmp_path, TASK_DATA_DIR=str(folder / "data"))
  split = [*whole, "--gin.MESH_SHAPE=(4,2,1)", "--gin.train.parameter_sharding='fsdp'"]
  for step, flags in ((1, split), (2, whole)):
    code, output, errors = runs.run_here("train", *flags, f"--gin.TRAIN_STEPS={step}")
    assert code == 0, output + errors
  assert "Resuming from step 1" in output
  want = runs.losses(folder / "model")
  assert runs.losses(tmp_path / "model") == pytest.approx({1: want[1], 2: want[2]}, rel=1e-5)
  measured = []
  for flags in (split, whole):
    code, output, _ = runs.run_here("eval", *flags, "--json")
    assert code == 0
    measured.append(json.loads(output))
  assert measured[0] == pytest.approx(measured[1], rel=1e-5)


def test_a_finished_run_has_nothing_to_train(folder):
  before = runs.snapshot(folder / "model")
  code, output, _ = runs.run_here("train", *runs.tiny_flags(folder))
  assert code == 0
  assert f"Nothing to train: step {STEPS} of {STEPS} is done." in output
  assert runs.snapshot(folder / "model") == before


def test_a_dry_run_writes_nothing(tmp_path):
  code, output, _ = runs.run_here("train", *runs.tiny_flags(tmp_path), "--dry_run")
  assert code == 0
  assert "Nothing is trained" in output
  assert list(tmp_path.iterdir()) == []


def test_training_loads_neither_tensorflow_nor_seqio(folder, tmp_path):
  program = (
    "import sys; from switch_t5.cli.main import main; assert main(sys.argv[1:]) == 0;"
    "print(sorted({'tensorflow', 'seqio'} & sys.modules.keys()))"
  )
  flags = runs.tiny_flags(tmp_path, TASK_DATA_DIR=str(folder / "data"), TRAIN_STEPS=1)
  command = [sys.executable, "-c", program, "train", *flags]
  done = subprocess.run(command, capture_output=True, text=True, cwd=runs.ROOT, check=True)
  assert done.stdout.splitlines()[-1] == "[]"


def test_a_trace_of_some_steps_and_parameters_of_another_run(folder, tmp_path):
  """Also AdamW, clipping and a smoothed loss."""
  trained = folder / "model" / "checkpoints" / f"checkpoint_{STEPS}"
  macros = {"TRAIN_STEPS": 4, "INITIAL_CHECKPOINT_PATH": str(trained)}
  more = [
    "--gin.train.optimizer=@adamw",
    "--gin.adamw.global_norm_clip_threshold=1.0",
    "--gin.LossConfig.label_smoothing=0.1",
    "--gin.LossConfig.loss_normalizing_factor='AVERAGE_PER_SEQUENCE'",
    "--gin.InitialCheckpoint.assignment_map=[(r'decoder/decoder_norm/.*', None)]",
    "--trace_steps=2:3",
  ]
  with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises a float to an integer step
    code, output, errors = runs.run_here("train", *runs.tiny_flags(tmp_path, **macros), *more)
  assert code == 0, output + errors
  assert "decoder/decoder_norm/scale <- drawn anew" in output
  # It goes on from what the other run has learnt.
  assert runs.losses(tmp_path / "model")[1] < runs.losses(folder / "model")[1] - 0.5
  assert list((tmp_path / "model" / "trace").rglob("*.xplane.pb"))
