# SPDX-License-Identifier: Apache-2.0
"""The text of facts: every fact often in training, held-out documents of known facts, always the same."""

from __future__ import annotations

import collections

from switch_t5.data import fact_memory
from switch_t5.data.fact_memory import FactMemory
from switch_t5.data.vocabulary import Vocabulary, embedded_vocabulary_path


def facts_of(documents):
  return collections.Counter(
    fact for document in documents for fact in document.removesuffix(".").split(". ")
  )


def test_held_out_documents_hold_facts_that_training_tells_often():
  splits = FactMemory(64).documents()
  told, held_out = facts_of(splits["train"]), facts_of(splits["validation"])
  assert len(told) == 64 and set(held_out) <= set(told)
  assert min(told.values()) > 50
  assert not set(splits["train"]) & set(splits["validation"])
  assert FactMemory(64).documents() == splits


def test_two_words_of_a_fact_tell_the_fact():
  facts = list(facts_of(FactMemory().documents()["train"]))
  assert len(facts) == 4096
  beginnings = collections.Counter(tuple(fact.split()[:2]) for fact in facts)
  assert sum(times == 1 for times in beginnings.values()) > 0.95 * len(facts)


def test_a_word_is_one_piece_of_the_vocabulary():
  words = fact_memory.whole_words()
  assert len(set(words)) == 512
  vocabulary = Vocabulary(embedded_vocabulary_path())
  assert all(len(vocabulary.encode(f"{word}.")) == 2 for word in words)
