# SPDX-License-Identifier: Apache-2.0
"""The split into training and validation."""

from __future__ import annotations

import logging

import pytest

from switch_t5 import errors
from switch_t5.data import documents


def test_about_5_percent_are_held_out_and_nothing_is_lost():
  texts = [f"document {i}" for i in range(4000)]
  splits = documents.split_documents(texts)
  assert sorted(splits["train"] + splits["validation"]) == sorted(texts)
  assert 150 < len(splits["validation"]) < 250


def test_a_document_keeps_its_side_when_others_come():
  texts = [f"document {i}" for i in range(1000)]
  few, many = (documents.split_documents(texts[:n]) for n in (500, 1000))
  assert set(few["validation"]) == set(many["validation"]) & set(texts[:500])


def test_copies_stay_on_one_side():
  texts = [f"document {i % 100}" for i in range(300)]
  splits = documents.split_documents(texts)
  assert not set(splits["train"]) & set(splits["validation"])


@pytest.mark.parametrize("start", range(40))
def test_two_documents_give_one_to_each_split(start):
  splits = documents.split_documents([f"document {start}", f"document {start + 1}"])
  assert len(splits["train"]) == len(splits["validation"]) == 1


def test_a_single_document_is_not_lost():
  splits = documents.split_documents(["alone"])
  assert len(splits["train"] + splits["validation"]) == 1
  assert documents.split_documents([]) == {"train": [], "validation": []}


def _fault(number: int) -> errors.DataError:
  return errors.DataError("It is bad.", value=f"place {number}", rule="good", remedy="mend it.")


def test_without_a_budget_the_first_fault_is_an_error_that_names_the_budget():
  with pytest.raises(
    errors.DataError, match=r"It is bad\.\n  value:  place 1\n  rule:   good"
  ) as raised:
    documents.SkipBudget().skip(_fault(1))
  assert raised.value.remedy.startswith("mend it. ")
  assert "DatasetConfig.skip_budget = N" in raised.value.remedy


def test_as_many_faults_as_the_budget_are_skipped_and_the_next_is_an_error(caplog):
  budget = documents.SkipBudget(3)
  with caplog.at_level(logging.WARNING):
    for number in range(3):
      budget.skip(_fault(number))
    with pytest.raises(errors.DataError, match="place 3") as raised:
      budget.skip(_fault(3))
  assert budget.skipped == 3
  assert "3 others were skipped" in raised.value.rule
  assert [f"place {n}" in message for n, message in enumerate(caplog.messages)] == [True] * 3


def test_of_many_faults_the_first_are_told(caplog):
  budget = documents.SkipBudget(1000)
  with caplog.at_level(logging.WARNING):
    for number in range(500):
      budget.skip(_fault(number))
  assert budget.skipped == 500
  assert len(caplog.messages) == 21
