# SPDX-License-Identifier: Apache-2.0
"""Every gin file that is shipped loads, describes a model that fits its mesh, and reads back."""

from __future__ import annotations

import jax
import pytest
import runs

from switch_t5.cli import gin_setup
from switch_t5.cli.configurables import CONFIGURABLES
from switch_t5.model.definition import define_model
from switch_t5.sharding.mesh import MeshShape

FOLDER = gin_setup.packaged_configs()
RECIPES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.glob("recipes/*.gin"))
PARTS = sorted(
  path.relative_to(FOLDER).as_posix()
  for path in FOLDER.glob("*/*.gin")
  if path.parent.name != "recipes"
)
# What a recipe leaves to its user.
REQUIRED = {
  "recipes/pretrain_demo.gin": {"MODEL_DIR": "model"},
  "recipes/pretrain_text.gin": {"MODEL_DIR": "model", "TEXT_FILES": str(runs.TEXT)},
}

pytestmark = pytest.mark.smoke


def load(*files, **macros):
  bindings = [f"{name} = {value!r}" for name, value in macros.items()]
  return gin_setup.load(files, bindings, [], CONFIGURABLES)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_describes_a_model_that_fits_its_mesh(recipe):
  config = load(recipe, **REQUIRED[recipe]).call("train")
  model = config.checked_model(MeshShape.parse(config.mesh_shape))
  definition = define_model(model)
  assert jax.tree.leaves(definition.shapes)
  assert config.dataset.task().vocabulary().size <= model.vocab_size


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_says_what_must_be_set(recipe):
  text = (FOLDER / recipe).read_text()
  contract = text.partition("# Often overridden")[0]
  for name in REQUIRED[recipe]:
    assert f"# - {name}" in contract
    others = {key: value for key, value in REQUIRED[recipe].items() if key != name}
    with pytest.raises(gin_setup.ConfigError, match=name):
      load(recipe, **others)


@pytest.mark.parametrize("recipe", RECIPES)
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


def test_every_part_is_used_by_a_recipe():
  texts = "".join((FOLDER / name).read_text() for name in (*RECIPES, *PARTS))
  assert [name for name in PARTS if f"include '{name}'" not in texts] == []
