# SPDX-License-Identifier: Apache-2.0
"""Each line of docs/routers.md switches something in the demo's recipe, and its model can be made."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator

import pytest

from switch_t5.cli import gin_setup
from switch_t5.cli.configurables import CONFIGURABLES
from switch_t5.cli.train_config import TrainConfig
from switch_t5.model.definition import define_model

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "routers.md"
DEFAULTS = {"RouterConfig.jitter_noise = 1e-2", "LossConfig.load_balance_factor = 1e-2"}
DEFAULTS |= {"ModelConfig.train_capacity_factor = 1.25", "ModelConfig.eval_capacity_factor = 2.0"}


def lines() -> Iterator[list[str]]:
  """Yields the bindings of each row; a row that begins with `and` adds to the one before it."""
  before: list[str] = []
  for row in re.findall(r"^\|[^|]+\|([^|]+)\|", PAGE.read_text(), re.MULTILINE):
    bindings = re.findall(r"`((?:\w+/)?[A-Z]\w+\.\w+ = [^`]+)`", row)
    if row.strip().startswith("and"):
      bindings = [b for b in before if b.partition(" =")[0] not in str(bindings)] + bindings
    before = bindings
    if bindings:
      yield bindings


def demo(bindings: list[str]) -> TrainConfig:
  files = ["recipes/pretrain_demo.gin"]
  loaded = gin_setup.load(files, ["MODEL_DIR = 'x'", *bindings], [], CONFIGURABLES, "train")
  return loaded.call("train")


def test_the_page_has_a_line_for_every_option_of_a_router():
  text = PAGE.read_text()
  config = demo([]).model
  for option in vars(config.encoder_router):
    assert option in text, option


@pytest.mark.parametrize("bindings", list(lines()), ids=", ".join)
def test_a_line_of_the_page_switches_the_demo(bindings):
  config, plain = demo(bindings), demo([])
  assert (config.model, config.loss) != (plain.model, plain.loss) or set(bindings) <= DEFAULTS
  define_model(config.model)
