# SPDX-License-Identifier: Apache-2.0
"""Text of nothing but facts: what can be known of it has to be kept in parameters.

A *fact* is a few random words in a fixed order, so that any two of them tell the others to who knows the
fact, and nothing else does. A document is a random choice of facts. All facts are in both splits: what is
held out are documents, so the loss there is that of memory, not of new facts.

With log2(512) = 9 bits a word, 4096 facts of six words are 221,000 bits: at about two bits a parameter
(Allen-Zhu & Li 2024) as much as some 110,000 parameters hold, if they are trained for long enough.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from switch_t5.data import documents as documents_lib
from switch_t5.data.vocabulary import Vocabulary, embedded_vocabulary_path

_WORDS, _WORDS_OF_A_FACT, _FACTS_OF_A_DOCUMENT = 512, 6, 16
_TIMES = 100  # each fact is told, on average
_SEED, _RULES_VERSION = 0, 1  # to be raised with every change of what follows


@dataclasses.dataclass(frozen=True)
class FactMemory:
  """Documents of facts; always the same ones.

  Attributes:
    facts: how many.
  """

  facts: int = 4096

  def documents(self, budget: documents_lib.SkipBudget | None = None) -> dict[str, list[str]]:
    """Returns the documents of each split; none is faulty."""
    del budget
    generator = np.random.Generator(np.random.Philox(key=_SEED))
    words = np.array(whole_words())
    drawn = generator.integers(len(words), size=(self.facts, _WORDS_OF_A_FACT))
    sentences = [f"{' '.join(fact)}." for fact in words[drawn]]
    count = self.facts * _TIMES // _FACTS_OF_A_DOCUMENT
    told = generator.integers(self.facts, size=(count, _FACTS_OF_A_DOCUMENT))
    texts = [" ".join(sentences[fact] for fact in document) for document in told]
    return documents_lib.split_and_shuffle(texts)

  def provenance(self) -> dict[str, str]:
    """Returns what the documents follow from."""
    words = Vocabulary(embedded_vocabulary_path()).fingerprint
    return {"facts": str(self.facts), "words of": words, "rules": str(_RULES_VERSION)}


def whole_words() -> list[str]:
  """Returns the first words that are one piece of the embedded vocabulary."""
  vocabulary = Vocabulary(embedded_vocabulary_path())
  found: list[str] = []
  for token in range(vocabulary.size):
    word = vocabulary.decode([token])
    plain = len(word) > 2 and word.isascii() and word.isalpha() and word.islower()
    if plain and vocabulary.encode(word) == [token]:
      found.append(word)
    if len(found) == _WORDS:
      break
  return found
