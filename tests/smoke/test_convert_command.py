# SPDX-License-Identifier: Apache-2.0
"""A trained model leaves for other systems and comes back, through the command."""

from __future__ import annotations

import json

import pytest
import runs

from switch_t5.interop import detect, safetensors_files

STEPS = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """The folder of a run of two steps and of what is exported of it."""
  folder = tmp_path_factory.mktemp("convert")
  train(folder, folder / "model", STEPS)
  for kind in ("t5x", "orbax", "safetensors", "huggingface"):
    command("export", f"--from={folder / 'model'}", f"--to={folder / kind}", f"--format={kind}")
  return folder


def train(folder, model_dir, steps, *more):
  """Trains to a step and returns what was printed."""
  flags = runs.tiny_flags(folder, MODEL_DIR=str(model_dir), TRAIN_STEPS=steps)
  code, output, errors = runs.run_here("train", *flags, "--gin.train.eval_steps=1", *more)
  assert code == 0, output + errors
  return output


def evaluate(folder, model_dir):
  flags = runs.tiny_flags(folder, MODEL_DIR=str(model_dir))
  code, output, errors = runs.run_here("eval", *flags, "--gin.train.eval_steps=1", "--json")
  assert code == 0, errors
  return json.loads(output)


def command(action, *flags):
  code, output, errors = runs.run_here("convert", action, *flags)
  assert code == 0, errors
  return output


@pytest.mark.smoke
@pytest.mark.parametrize("kind", ["t5x", "orbax", "safetensors", "huggingface"])
def test_what_was_exported_is_equal_and_diff_says_so(kind, folder):
  code, output, _ = runs.run_here("checkpoint", "diff", str(folder / "model"), str(folder / kind))
  assert code == 0
  assert "arrays are equal." in output
  assert ("not compared" in output) == (kind == "huggingface")


@pytest.mark.parametrize(
  "place", ["t5x/checkpoint_2", "orbax/checkpoint_2", "safetensors", "huggingface"]
)
def test_a_card_lies_in_the_folder_of_what_was_exported(place, folder):
  card = json.loads((folder / place / "model_card.json").read_text())
  assert card["exported from"]["step"] == STEPS
  assert card["data"]["task"] == "text_span_corruption"
  assert f"{card['parameters']:,} parameters" in (folder / place / "README.md").read_text()


def test_diff_names_what_differs_and_its_exit_code_says_so(folder):
  paths = [str(folder / "model" / "checkpoints" / f"checkpoint_{STEPS}"), str(folder / "changed")]
  arrays = safetensors_files.open_files(folder / "safetensors")
  name = "target.encoder.encoder_norm.scale"
  values = arrays[name].read() + 0.5
  arrays[name] = type(arrays[name])(values.shape, values.dtype, lambda: values)
  (folder / "changed").mkdir()
  safetensors_files.write_files(arrays, folder / "changed", lambda name, size: None)
  code, output, _ = runs.run_here("checkpoint", "diff", *paths)
  assert code == 1
  assert (
    "target/encoder/encoder_norm/scale  float32[16]  16 elements differ, by up to 0.5" in output
  )
  code, output, _ = runs.run_here("checkpoint", "diff", *paths, "--json")
  assert code == 1
  (row,) = json.loads(output)["differences"]
  assert (row["name"], row["differing"]) == ("target/encoder/encoder_norm/scale", 16)


@pytest.mark.smoke
def test_a_t5x_run_is_continued_with_its_optimizer_and_its_step(folder, tmp_path):
  output = command("import", f"--from={folder / 't5x'}", f"--to={tmp_path / 'model'}")
  assert f"goes on from step {STEPS}" in output
  output = train(folder, tmp_path / "model", STEPS + 1)
  assert f"Resuming from step {STEPS}" in output
  assert "It was imported: the data begin at their first row." in output
  # Rows that were trained on: less loss than when they were new.
  again, first = runs.losses(tmp_path / "model"), runs.losses(folder / "model")
  assert again[STEPS + 1] < first[1]
  # Now the position in the data is known.
  assert "imported" not in train(folder, tmp_path / "model", STEPS + 2)


def test_a_model_from_hugging_face_is_evaluated_as_it_was_and_started_from(folder, tmp_path):
  model_dir = tmp_path / "model"
  output = command("import", f"--from={folder / 'huggingface'}", f"--to={model_dir}")
  assert "There is no optimizer state in it." in output
  assert (model_dir / "spiece.model").exists()
  before, after = evaluate(folder, folder / "model"), evaluate(folder, model_dir)
  assert after.pop("step") == 0
  assert after == pytest.approx({k: v for k, v in before.items() if k != "step"}, rel=1e-6)
  output = train(
    folder,
    tmp_path / "new",
    1,
    f"--gin.INITIAL_CHECKPOINT_PATH={str(folder / 'huggingface')!r}",
    "--gin.InitialCheckpoint.assignment_map=[(r'encoder/encoder_norm/.*', None)]",
  )
  assert f"parameters are taken from {folder / 'huggingface'} (Hugging Face" in output
  assert "encoder/encoder_norm/scale <- drawn anew" in output


def test_training_on_without_optimizer_state_says_what_to_do(folder, tmp_path):
  command("import", f"--from={folder / 'huggingface'}", f"--to={tmp_path / 'model'}")
  flags = runs.tiny_flags(folder, MODEL_DIR=str(tmp_path / "model"))
  code, _, errors = runs.run_here("train", *flags)
  assert code == 3
  assert "INITIAL_CHECKPOINT_PATH" in errors


def test_the_imported_models_file_makes_the_same_model(folder, tmp_path):
  command("import", f"--from={folder / 't5x'}", f"--to={tmp_path}")
  flags = [f"--gin_file={tmp_path / 'model.gin'}", "--gin_file=runs/pretrain.gin", "--json"]
  macros = {
    "MODEL_DIR": "x",
    "MIXTURE_OR_TASK_NAME": "embedded_span_corruption",
    "TASK_FEATURE_LENGTHS": {"inputs": 512, "targets": 114},
    "TRAIN_STEPS": 1,
  }
  flags += [f"--gin.{name}={value!r}" for name, value in macros.items()]
  code, output, errors = runs.run_here("config", *flags)
  assert code == 0, errors
  exported = detect.open_checkpoint(folder / "t5x").parameters().values()
  assert json.loads(output)["parameters"] == sum(array.nbytes // 4 for array in exported)


WRONG = {
  "no action": (["convert"], "takes an action"),
  "another action": (["convert", "exprot"], "Did you mean export"),
  "no --from": (["convert", "import", "--to=x"], "--from is missing"),
  "no --to": (["convert", "import", "--from=x"], "--to is missing"),
  "no format": (["convert", "export", "--from=x", "--to=y"], "--format is missing"),
  "another format": (
    ["convert", "export", "--from=x", "--to=y", "--format=hugingface"],
    "Did you mean huggingface",
  ),
  "one side of a diff": (["checkpoint", "diff", "x"], "checkpoint diff A B"),
  "--from elsewhere": (["train", "--from=x"], "does not take --from"),
}


@pytest.mark.parametrize("argv, said", WRONG.values(), ids=WRONG)
def test_a_wrong_command_is_explained(argv, said):
  code, _, errors = runs.run_here(*argv)
  assert code == 2
  assert said in errors


def test_a_format_that_is_not_what_is_there_is_refused(folder, tmp_path):
  flags = [f"--from={folder / 't5x'}", f"--to={tmp_path}", "--format=huggingface"]
  code, _, errors = runs.run_here("convert", "import", *flags)
  assert code == 2
  assert "found t5x" in errors


def test_a_checkpoint_that_is_not_there_is_exit_code_3(tmp_path):
  for argv in (
    ["convert", "import", f"--from={tmp_path / 'nowhere'}", f"--to={tmp_path}"],
    ["checkpoint", "diff", str(tmp_path), str(tmp_path)],
  ):
    code, _, errors = runs.run_here(*argv)
    assert code == 3
    assert "There is no checkpoint here" in errors
