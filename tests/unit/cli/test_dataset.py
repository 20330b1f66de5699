# SPDX-License-Identifier: Apache-2.0
"""Which budgets of faulty documents a DatasetConfig takes."""

from __future__ import annotations

import pytest
import runs

from switch_t5.cli.dataset import DatasetConfig
from switch_t5.errors import ConfigError


def _config(name="text_span_corruption", **arguments) -> DatasetConfig:
  if name == "text_span_corruption":
    arguments = {"text_files": str(runs.TEXT)} | arguments
  return DatasetConfig(name, {"inputs": 16, "targets": 8}, 1, **arguments)


@pytest.mark.parametrize("budget", [-1, 1.5, "2", None, True])
def test_a_budget_that_is_no_number_of_documents_is_refused(budget):
  with pytest.raises(ConfigError, match="skip_budget") as raised:
    _config(skip_budget=budget)
  assert repr(budget) in raised.value.value


@pytest.mark.parametrize("reader", ["indexed", "streaming"])
def test_a_budget_reaches_the_task(reader):
  config = _config(skip_budget=3, reader=reader)
  config.check_task()
  assert [task.skip_budget for task in config.components()] == [3]


def test_a_budget_that_nothing_heeds_is_refused_with_the_reader_that_does():
  with pytest.raises(ConfigError, match="cannot be skipped") as raised:
    _config("mc4", skip_budget=3, reader="streaming").check_task()
  assert "DatasetConfig.reader = 'indexed'" in raised.value.remedy
  _config("mc4", reader="streaming").check_task()
  _config("mc4", skip_budget=3).check_task()
