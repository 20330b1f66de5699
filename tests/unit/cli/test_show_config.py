# SPDX-License-Identifier: Apache-2.0
"""What `switch_t5 config` prints of a configuration, and of what gin may configure."""

from __future__ import annotations

import json

from switch_t5.cli import gin_setup, show_config


def model(d_model, activation=max, shape=(1, 2)):
  """Makes a model.

  More about it.
  """


def train(model, steps=1):
  """Trains."""


CONFIGURABLES = {"model": model, "train": train}
BINDINGS = (
  "D = 16",
  "train.model = @model()",
  "model.d_model = %D",
  "train.steps = {'a': (%D, 1)}",
)


def test_lines_hold_every_binding_with_macros_resolved():
  configuration = gin_setup.load([], BINDINGS, [], CONFIGURABLES)
  assert show_config.describe(configuration, {"parameters": 3}, as_json=False).splitlines() == [
    "model.d_model = 16",
    "train.model = @model()",
    "train.steps = {'a': (16, 1)}",
    "",
    "# parameters: 3",
  ]


def test_json_is_one_object_with_bindings_macros_and_facts():
  configuration = gin_setup.load([], BINDINGS, [], CONFIGURABLES)
  assert json.loads(show_config.describe(configuration, {"parameters": 3}, as_json=True)) == {
    "bindings": {"model.d_model": 16, "train.model": "@model()", "train.steps": {"a": [16, 1]}},
    "macros": {"D": 16},
    "parameters": 3,
  }


def test_the_list_gives_parameters_defaults_and_a_line():
  assert show_config.listing(CONFIGURABLES, as_json=False).splitlines() == [
    "model",
    "  Makes a model.",
    "    d_model = (required)",
    "    activation = max",
    "    shape = (1, 2)",
    "",
    "train",
    "  Trains.",
    "    model = (required)",
    "    steps = 1",
  ]
