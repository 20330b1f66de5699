# SPDX-License-Identifier: Apache-2.0
"""Every gin file that is shipped loads, describes a model that fits its mesh, and reads back."""

from __future__ import annotations

import jax
import pytest
import runs
import superglue_form

from switch_t5.cli import gin_setup
from switch_t5.cli.configurables import CONFIGURABLES
from switch_t5.data.vocabulary import embedded_vocabulary_path
from switch_t5.model.cost import forward_flops_per_sequence, parameter_count
from switch_t5.model.definition import define_model
from switch_t5.sharding.mesh import MeshShape

FOLDER = gin_setup.packaged_configs()
RECIPES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.glob("recipes/*.gin"))
TRAINING = [name for name in RECIPES if name != "recipes/infer.gin"]
PARTS = sorted(
  path.relative_to(FOLDER).as_posix()
  for path in FOLDER.glob("*/*.gin")
  if path.parent.name not in ("recipes", "studies")  # the mode `study` takes its own by name
)
# What a recipe leaves to its user.
REQUIRED = {
  "recipes/pretrain_demo.gin": {"MODEL_DIR": "model"},
  "recipes/pretrain_text.gin": {"MODEL_DIR": "model", "TEXT_FILES": str(runs.TEXT)},
} | {
  f"recipes/pretrain_{name}.gin": {
    "MODEL_DIR": "model",
    "VOCABULARY_PATH": embedded_vocabulary_path(),
  }
  for name in ("c4", "switch_base", "switch_large", "switch_xxl", "switch_c")
}
BOOLQ = {"MIXTURE_OR_TASK_NAME": "super_glue_boolq_v102"}
PRETRAINED = {"MODEL_DIR": "model", "INITIAL_CHECKPOINT_PATH": "runs/demo"}
ON_SUPERGLUE = {
  "recipes/finetune_superglue.gin": PRETRAINED,
  "recipes/finetune_task.gin": PRETRAINED | BOOLQ,
  "recipes/eval.gin": {"MODEL_DIR": "model"} | BOOLQ,
  "recipes/eval_superglue.gin": {"MODEL_DIR": "model"},
}
TAUGHT = {"MODEL_DIR": "model", "TEACHER_PATH": "runs/demo"}
ON_SUPERGLUE["recipes/distill_finetuned.gin"] = TAUGHT | BOOLQ
REQUIRED |= ON_SUPERGLUE | {"recipes/distill_pretrained.gin": TAUGHT}
REQUIRED["recipes/infer.gin"] = {"CHECKPOINT_PATH": "model", "OUTPUT_FILE": "answers.jsonl"}
PRETRAIN = {
  "MODEL_DIR": "model",
  "MIXTURE_OR_TASK_NAME": "embedded_span_corruption",
  "TASK_FEATURE_LENGTHS": {"inputs": 512, "targets": 114},
  "TRAIN_STEPS": 1,
}
# Published parameters, and where the paper's Table 9 has them forward FLOPs per sequence.
SIZES = {
  f"models/{name}.gin": published
  for name, published in {
    "t5_small": ("60.5M", None),
    "t5_base": ("222.9M", "124.6B"),
    "t5_large": ("737.7M", "424.9B"),
    "t5_3b": ("2.85B", None),
    "t5_11b": ("11.31B", None),
    "t5_1_1_small": ("77.0M", None),
    "t5_1_1_base": ("247.6M", "124.6B"),
    "t5_1_1_large": ("783.2M", None),
    "t5_1_1_xl": ("2.85B", None),
    "t5_1_1_xxl": ("11.14B", "6.26T"),
    "switch_base_8": ("0.619B", "124.6B"),
    "switch_base_16": ("1.07B", "124.6B"),
    "switch_base_32": ("1.98B", "124.6B"),
    "switch_base_64": ("3.79B", "124.6B"),
    "switch_base_128": ("7.42B", "124.6B"),
    "switch_base_256": ("14.66B", "124.6B"),
    "switch_large_128": ("26.3B", "424.9B"),
    "switch_xxl_128": ("394.7B", "6.26T"),
    "switch_c_2048": ("1.571T", "869B"),  # the released 30 heads; the paper's 32 give its 890B
    "switch_demo": ("13.1M", None),
  }.items()
}
UNITS = {"M": 1e6, "B": 1e9, "T": 1e12}

pytestmark = pytest.mark.smoke


def load(*files, **macros):
  bindings = [f"{name} = {value!r}" for name, value in macros.items()]
  return gin_setup.load(files, bindings, [], CONFIGURABLES)


def written_as(published, value):
  """Returns the value with the unit and as many digits as it was published with."""
  number, unit = published[:-1], published[-1]
  return f"{value / UNITS[unit]:.{len(number.partition('.')[2])}f}{unit}"


@pytest.mark.parametrize("recipe", TRAINING)
@pytest.mark.filterwarnings("ignore")  # TensorFlow's own
def test_a_recipe_describes_a_model_that_fits_its_mesh(recipe, tmp_path):
  given = dict(REQUIRED[recipe])
  if recipe in ON_SUPERGLUE:
    given["TASK_DATA_DIR"] = str(superglue_form.write(tmp_path))
  config = load(recipe, **given).call("train")
  model = config.checked_model(MeshShape.parse(config.mesh_shape))
  definition = define_model(model)
  assert jax.tree.leaves(definition.shapes)
  assert config.dataset.components()[0].vocabulary().size <= model.vocab_size


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_says_what_must_be_set(recipe):
  text = (FOLDER / recipe).read_text()
  contract = text.partition("# Often overridden")[0]
  for name in REQUIRED[recipe]:
    assert f"# - {name}" in contract
    others = {key: value for key, value in REQUIRED[recipe].items() if key != name}
    with pytest.raises(gin_setup.ConfigError, match=name):
      load(recipe, **others)


@pytest.mark.parametrize("recipe", TRAINING)
def test_the_operative_configuration_reads_back_as_the_same(recipe, tmp_path):
  saved = load(recipe, **REQUIRED[recipe])
  text = saved.operative_config("train")
  (tmp_path / "config.gin").write_text(text)
  again = load(str(tmp_path / "config.gin"))
  assert again.operative_config("train") == text
  one, other = saved.call("train"), again.call("train")
  for name in ("model", "dataset", "loss", "total_steps", "mesh_shape", "seed", "log_period"):
    assert getattr(one, name) == getattr(other, name)
  assert one.learning_rate(500) == other.learning_rate(500)


def test_the_recipe_of_infer_takes_a_file_or_a_task():
  given = REQUIRED["recipes/infer.gin"]
  for source in ({"INPUT_FILE": "texts.txt"}, {"MIXTURE_OR_TASK_NAME": "super_glue_cb_v102"}):
    config = load("recipes/infer.gin", **given, **source).call("infer")
    assert config.decoding.num_beams == 4
  for wrong in ({}, {"INPUT_FILE": "texts.txt", "MIXTURE_OR_TASK_NAME": "super_glue_cb_v102"}):
    with pytest.raises(gin_setup.ConfigError, match="one of the two"):
      load("recipes/infer.gin", **given, **wrong).call("infer")


def test_every_part_is_used_by_a_recipe_or_is_a_model_to_choose():
  texts = "".join((FOLDER / name).read_text() for name in (*RECIPES, *PARTS))
  assert [n for n in PARTS if f"include '{n}'" not in texts and n not in SIZES] == []


@pytest.mark.parametrize("name", SIZES)
def test_a_size_has_the_parameters_and_the_flops_that_were_published(name):
  parameters, flops = SIZES[name]
  config = load(name, "runs/pretrain.gin", **PRETRAIN).call("train")
  model = config.checked_model(MeshShape.parse(config.mesh_shape))
  assert written_as(parameters, parameter_count(model)) == parameters
  if flops is not None:
    assert written_as(flops, forward_flops_per_sequence(model, 512, 114)) == flops


@pytest.mark.parametrize("name", ["models/t5_1_1_xxl.gin", "models/switch_c_2048.gin"])
def test_a_size_divides_over_the_meshes_of_pods(name):
  config = load(name, "runs/pretrain.gin", **PRETRAIN, BATCH_SIZE=4096).call("train")
  model = config.model.with_lengths(512)
  model.check_mesh(MeshShape(8, 32 if model.num_experts else 1, 2), 4096, 1)
