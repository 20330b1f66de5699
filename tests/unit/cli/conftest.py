# SPDX-License-Identifier: Apache-2.0
"""A small model that the modes which ask one share: it is loaded, and its programs made, once."""

from __future__ import annotations

import pytest
import stored

from switch_t5.cli.infer_config import LoadConfig


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory):
  """The folder of a run of ours."""
  return stored.write_run(tmp_path_factory.mktemp("asked") / "model")


@pytest.fixture(scope="session")
def models():
  """Every model that was loaded, by what it was loaded with."""
  return {}


@pytest.fixture
def loaded_once(models, monkeypatch):
  """Lets commands of one process have the same model."""
  load = LoadConfig.load

  def load_once(self, found, *, at_once):
    key = (found.path, found.vocabulary.path, self.batch_size or at_once, self.dtype)
    if key not in models:
      models[key] = load(self, found, at_once=at_once)
    return models[key]

  monkeypatch.setattr(LoadConfig, "load", load_once)
