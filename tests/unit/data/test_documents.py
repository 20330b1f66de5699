# SPDX-License-Identifier: Apache-2.0
"""The split into training and validation."""

from __future__ import annotations

import pytest

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
