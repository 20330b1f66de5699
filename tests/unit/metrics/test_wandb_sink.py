# SPDX-License-Identifier: Apache-2.0
"""Metrics for Weights & Biases, whose package stands in here: it is an extra."""

from __future__ import annotations

import importlib.machinery
import sys
import types

import pytest

from switch_t5.errors import ConfigError
from switch_t5.metrics.wandb_sink import WandbSink, check_installed


class Recorder(types.ModuleType):
  """What the package does with the calls: notes them."""

  def __init__(self):
    super().__init__("wandb")
    self.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    self.started, self.logged, self.finished = [], [], 0

  def init(self, **arguments):
    self.started.append(arguments)
    return self

  def log(self, metrics, step):
    self.logged.append((step, metrics))

  def finish(self):
    self.finished += 1


@pytest.fixture
def wandb(monkeypatch):
  recorder = Recorder()
  monkeypatch.setitem(sys.modules, "wandb", recorder)
  return recorder


def test_a_resumed_run_goes_on_as_the_same_run(wandb, tmp_path):
  check_installed("mine")
  for step in (1, 2):
    sink = WandbSink(tmp_path, "mine", {"config.gin": "x = 1"})
    sink.write(step, {"train/loss": 2.0})
    sink.close()
  first, second = wandb.started
  assert first == second
  assert first["project"] == "mine" and first["resume"] == "allow"
  assert first["config"] == {"config.gin": "x = 1"}
  assert wandb.logged == [(1, {"train/loss": 2.0}), (2, {"train/loss": 2.0})]
  assert wandb.finished == 2


def test_without_the_package_the_remedy_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "wandb", None)
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  with pytest.raises(ConfigError, match=r"switch_t5\[wandb\]"):
    check_installed("mine")
