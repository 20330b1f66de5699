# SPDX-License-Identifier: Apache-2.0
"""Every mistake in a configuration is one error that names the value, the place and the fix."""

from __future__ import annotations

import dataclasses
import math

import pytest

from switch_t5.cli import gin_setup
from switch_t5.errors import ConfigError

CALLS = []


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """A model."""

  d_model: int
  num_layers: int = 2


def schedule(step, warmup=10):
  return step / warmup


def adafactor(learning_rate, decay_rate=0.8):
  return ("adafactor", learning_rate(20), decay_rate)


def dataset(split, batch_size=4):
  return (split, batch_size)


def train(model, optimizer=None, train_data=None, eval_data=None, model_dir=None, steps=1):
  CALLS.append("train")
  return {
    "model": model,
    "optimizer": optimizer,
    "train_data": train_data,
    "eval_data": eval_data,
    "model_dir": model_dir,
    "steps": steps,
  }


CONFIGURABLES = {f.__name__: f for f in (ModelConfig, schedule, adafactor, dataset, train)}

RUN = """
# Required to be set.
MODEL_DIR = %gin.REQUIRED
TRAIN_STEPS = %gin.REQUIRED
# Often changed.
BATCH_SIZE = 8
D_MODEL = 16
include 'model.gin'
train.model = @ModelConfig()
train.optimizer = @adafactor()
adafactor.learning_rate = @schedule
schedule:
  warmup = 100
train.model_dir = %MODEL_DIR
train.steps = %TRAIN_STEPS
train.train_data = @train/dataset()
train.eval_data = @eval/dataset()
dataset.batch_size = %BATCH_SIZE
train/dataset.split = 'train'
eval/dataset.split = 'validation'
eval/dataset.batch_size = 2
"""
SET = ("MODEL_DIR = 'out'", "TRAIN_STEPS = 5")


@pytest.fixture
def folder(tmp_path):
  (tmp_path / "run.gin").write_text(RUN)
  (tmp_path / "model.gin").write_text("ModelConfig.d_model = %D_MODEL\n")
  CALLS.clear()
  return tmp_path


def load(folder, *bindings, files=("run.gin",)):
  return gin_setup.load(files, bindings, [str(folder)], CONFIGURABLES)


def load_text(folder, text, *bindings):
  (folder / "text.gin").write_text(text)
  return load(folder, *bindings, files=("text.gin",))


def refusal(folder, text, *bindings):
  """Returns the message that refuses a file; nothing may have been called."""
  with pytest.raises(ConfigError) as error:
    load_text(folder, text, *bindings)
  assert error.value.exit_code == 2
  assert not CALLS
  return str(error.value)


@pytest.mark.smoke
def test_a_call_gets_its_bindings(folder):
  assert load(folder, *SET).call("train") == {
    "model": ModelConfig(d_model=16),
    "optimizer": ("adafactor", 0.2, 0.8),
    "train_data": ("train", 8),
    "eval_data": ("validation", 2),
    "model_dir": "out",
    "steps": 5,
  }


def test_the_last_definition_of_a_macro_wins_wherever_it_is_used(folder):
  result = load(folder, *SET, "BATCH_SIZE = 32", "BATCH_SIZE = 64").call("train")
  assert result["train_data"] == ("train", 64)


def test_later_files_and_bindings_win(folder):
  (folder / "later.gin").write_text("ModelConfig.num_layers = 3\nBATCH_SIZE = 16\n")
  configuration = load(folder, *SET, "ModelConfig.num_layers = 4", files=("run.gin", "later.gin"))
  assert configuration.bindings()["ModelConfig.num_layers"] == 4
  assert configuration.bindings()["dataset.batch_size"] == 16


def test_arguments_of_the_caller_win(folder):
  assert load(folder, *SET).call("train", steps=7)["steps"] == 7
  assert load(folder, *SET).call("train", "mine")["model"] == "mine"


def test_a_macro_can_be_read_alone(folder):
  assert load(folder, *SET).macro("MODEL_DIR") == "out"


def test_values_are_python_literals(folder):
  values = ["(8, 1, 1)", "{'inputs': 512}", "[1, -2.5, 1e-3]", "'a' 'b'", "None", "True", "(3,)"]
  for text in values:
    bindings = load_text(folder, f"train.steps = {text}").bindings()
    assert bindings["train.steps"] == eval(text)


def test_a_parameter_without_a_value_is_named(folder):
  with pytest.raises(ConfigError, match=r"--gin\.ModelConfig\.d_model=VALUE"):
    load_text(folder, "train.model = @ModelConfig()").call("train")
  assert not CALLS


# What a configuration saved beside a checkpoint must do.


@pytest.mark.smoke
def test_the_operative_configuration_reads_back_as_the_same_calls(folder):
  first = load(folder, *SET, "ModelConfig.num_layers = 9")
  text = first.operative_config("train")
  second = load_text(folder, text)
  assert second.call("train") == first.call("train")
  assert second.operative_config("train") == text
  assert first.bindings().items() <= second.bindings().items()


def test_the_operative_configuration_holds_defaults_and_only_what_is_used(folder):
  text = load(folder, *SET, "train.optimizer = None").operative_config("train")
  assert "ModelConfig.num_layers = 2" in text
  assert "BATCH_SIZE = 8" in text and "%BATCH_SIZE" in text
  assert "adafactor" not in text


def test_the_operative_configuration_writes_every_kind_of_value(folder):
  value = {
    "a": (1,), "b": [None, True, -0.5, float("inf")], "c": "it's \"q\"\n\\", "d": b"x", "e": (),
    "long": list(range(60)),
  }  # fmt: skip
  source = f"train.model = 0\ntrain.steps = {value!r}".replace("inf", "1e999")
  text = load_text(folder, source).operative_config("train")
  assert max(map(len, text.splitlines())) < 260
  assert load_text(folder, text).bindings()["train.steps"] == value
  assert math.isinf(load_text(folder, text).bindings()["train.steps"]["b"][3])


# Refusals.


@pytest.mark.parametrize(
  ("text", "named", "fix"),
  [
    ("trian.steps = 1", "trian", "Did you mean train?"),
    ("train.stepz = 1", "train.stepz", "Did you mean steps?"),
    ("train.model = @ModelConfg()", "@ModelConfg()", "Did you mean ModelConfig?"),
    ("train.model = (1, {'a': @os.system()})", "@os.system()", "config --list"),
    ("train.model = @gin.singleton()", "@gin.singleton()", "built-ins are closed"),
    ("singleton.constructor = @train", "singleton", "built-ins are closed"),
    ("NAME/macro.value = 3", "macro", "NAME = VALUE"),
    ("a/NAME = 3", "a/NAME", "Write NAME = VALUE"),
    ("train/dataset.split = 'train'", "train/dataset.split", "dataset.split, without the scope"),
    ("import os", "import os", "--import=MODULE"),
    ("from os import path as p", "from os import path as p", "--import=MODULE"),
    ("STEPS = 5\ntrain.steps = %STEP", "%STEP", "Did you mean STEPS?"),
    ("STPES = 5\nSTEPS = 4\ntrain.steps = %STEPS", "STPES", "Did you mean STEPS?"),
    ("A = %B\nB = %A\ntrain.steps = %A", "%A -> %B -> %A", "Give one of them a value"),
    ("train.model = @train()", "@train -> @train", "Remove one"),
    ("train.model = @a/train", "@a/train -> @a/train", "Remove one"),
    ("M = @dataset()\ndataset.split = %M", "@dataset -> @dataset", "Remove one"),
    ("train.steps = REQUIRED", "train.steps = REQUIRED", "%gin.REQUIRED"),
    ("train.steps = %gin.REQUIRED", "train.steps", "--gin.train.steps=VALUE"),
    ("train.model_dir = my/run", "train.model_dir = my/run", "train.model_dir = 'my/run'"),
    ("train.steps = 2 * 5", "train.steps = 2 * 5", "Correct the line"),
    ("train.steps = (1,", "train.steps = (1,", "Correct the line"),
    ("train.steps = __import__('os')", "__import__", "Correct the line"),
    ("train.steps = {[1]: 2}", "train.steps", "Correct the line"),
    ("train.steps", "train.steps", "Correct the line"),
    ("train.steps = ", "train.steps =", "Give it a value"),
    ("train.steps = -", "train.steps = -", "remedy"),
    ("train.steps = " + "[" * 9000, "text.gin", ""),  # Python's tokenizer or its stack refuses
    (
      "".join(f"M{i} = %M{i + 1}\n" for i in range(5000)) + "M5000 = 1\ntrain.steps = %M0",
      "text.gin",
      "nested too deeply",
    ),
    ("\0", "", "Correct the line"),
  ],
)
def test_a_mistake_is_named_with_its_fix(folder, text, named, fix):
  message = refusal(folder, text)
  assert named in message
  assert fix in message


@pytest.mark.parametrize(
  ("text", "fix"),
  [
    ("from __gin__ import dynamic_registration", "Remove it"),
    ("import __main__ as train_script", "write `train.` for `train_script.`"),
    ("from t5x import utils", "Remove it"),
    ("from flaxformer.components import dense", "models/"),
    ("import seqio", "MIXTURE_OR_TASK_NAME = 'my_task'"),
    ("import t5.data.mixtures", "Remove it"),
    ("include 't5x/configs/runs/pretrain.gin'", "runs/pretrain.gin"),
    ("include 'flaxformer/t5x/configs/moe/models/switch_base.gin'", "models/switch_demo.gin"),
    ("train_script.train.steps = 5", "Write `train`, without the module"),
    ("train/utils.DatasetConfig.split = 'train'", "MIXTURE_OR_TASK_NAME"),
    ("partitioning.PjitPartitioner.num_partitions = 1", "MESH_SHAPE"),
    ("trainer.Trainer.num_microbatches = 2", "NUM_MICROBATCHES"),
    ("utils.SaveCheckpointConfig.period = 1000", "CHECKPOINT_PERIOD"),
    ("utils.RestoreCheckpointConfig.path = 'x'", "MODEL_DIR"),
    ("train.model = @models.EncoderDecoderModel()", "models/"),
  ],
)
def test_lines_of_t5x_are_answered_with_ours(folder, text, fix):
  assert fix in refusal(folder, text)


def test_the_file_and_line_are_named(folder):
  message = refusal(folder, "train.steps = 1\n\n# a comment\ntrain.stepz = 2\n")
  assert f"{folder / 'text.gin'}:4: " in message
  (folder / "model.gin").write_text("\nModelConfig.d_modle = 3\n")
  assert "model.gin:2: " in refusal(folder, "include 'model.gin'")


def test_everything_that_is_required_is_named_at_once(folder):
  with pytest.raises(ConfigError) as error:
    load(folder)
  message = str(error.value)
  assert "MODEL_DIR, TRAIN_STEPS" in message
  assert "run.gin:3" in message
  assert "--gin.MODEL_DIR=\"'runs/first'\" --gin.TRAIN_STEPS=10000" in message


def test_a_text_without_quotes_is_told_how_to_quote(folder):
  with pytest.raises(ConfigError) as error:
    load(folder, "MODEL_DIR = runs/demo")
  assert "--gin.MODEL_DIR=\"'runs/demo'\"" in str(error.value)


def test_a_macro_of_the_command_line_must_take_effect(folder):
  with pytest.raises(ConfigError, match="Did you mean TRAIN_STEPS"):
    load(folder, *SET, "TRAIN_STPES = 5")
  # The file's own macro may be replaced at its only use, the command line's may not.
  load(
    folder,
    "MODEL_DIR = 'out'",
    "train.steps = 3",
    "TRAIN_DATA = 1",
    "train.train_data = %TRAIN_DATA",
  )
  with pytest.raises(ConfigError, match="nothing uses this macro"):
    load(folder, *SET, "train.steps = 3")


def test_a_missing_file_is_named_with_what_was_searched(folder):
  with pytest.raises(ConfigError) as error:
    load(folder, files=("runn.gin",))
  assert "runn.gin" in str(error.value) and str(folder) in str(error.value)
  message = refusal(folder, "train.steps = 1\ninclude 'nothing.gin'")
  assert "text.gin:2" in message and "nothing.gin" in message


def test_files_are_found_by_path_and_in_the_search_paths_first(
  folder, tmp_path_factory, monkeypatch
):
  here = tmp_path_factory.mktemp("here")
  (here / "text.gin").write_text("train.steps = 2\n")
  monkeypatch.chdir(here)
  assert load(folder, files=("text.gin",)).bindings() == {"train.steps": 2}
  assert load_text(folder, "train.steps = 1").bindings() == {"train.steps": 1}
  for name in (str(here / "text.gin"), f"../{here.name}/text.gin"):
    assert load(folder, files=(name,)).bindings() == {"train.steps": 2}


def test_includes_stay_inside_the_search_paths(folder):
  outside = folder / "outside.gin"
  outside.write_text("train.steps = 1\n")
  inside = folder / "inside"
  inside.mkdir()
  (inside / "link.gin").symlink_to(outside)
  for name in ("../outside.gin", str(outside), "link.gin"):
    (inside / "text.gin").write_text(f"include '{name}'\n")
    with pytest.raises(ConfigError, match="outside the search paths"):
      load(inside, files=("text.gin",))


def test_a_file_may_not_include_itself(folder):
  (folder / "a.gin").write_text("include 'b.gin'\n")
  (folder / "b.gin").write_text("include 'a.gin'\n")
  with pytest.raises(ConfigError, match=r"a\.gin -> .*b\.gin -> .*a\.gin"):
    load(folder, files=("a.gin",))


def test_a_file_that_is_not_text_is_refused(folder):
  (folder / "text.gin").write_bytes(b"train.steps = 1\n\xff\n")
  with pytest.raises(ConfigError, match="UTF-8"):
    load(folder, files=("text.gin",))


def test_no_line_of_a_gin_file_runs_code(folder, monkeypatch):
  (folder / "bomb.py").write_text("raise SystemExit('imported')\n")
  monkeypatch.syspath_prepend(str(folder))
  for text in (
    "import bomb",
    "from __gin__ import dynamic_registration\nimport bomb\nbomb.x.y = 1",
    "train.model = @bomb.x()",
    "bomb.x.y = 1",
    "from bomb import x",
  ):
    refusal(folder, text)
