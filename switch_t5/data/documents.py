# SPDX-License-Identifier: Apache-2.0
"""Documents: their split into training and validation, and those that are skipped.

A *document* is one string of text. Which split it belongs to follows from a hash of its text alone,
so a document never changes sides when others are added, and copies of it stay on one side.

A *faulty* document cannot be read as it should be: bad UTF-8, a line that is not JSON. A source gives
each to a `SkipBudget`, which raises when there are more than may be skipped. Which documents are
faulty does not depend on the budget.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from absl import logging

from switch_t5 import errors

TRAIN = "train"
VALIDATION = "validation"
SPLITS = (TRAIN, VALIDATION)
VALIDATION_FRACTION = 0.05
_SHUFFLE_SEED = 0
_SHOWN_FAULTS = 20


class Documents(Protocol):
  """The documents of a split, in a fixed order; a list of strings is one.

  They may be read while they are iterated over, so that a source may be larger than memory.
  """

  def __len__(self) -> int:
    """Returns their number, without reading them."""

  def __iter__(self) -> Iterator[str]:
    """Yields them one after the other."""

  def __getitem__(self, part: slice, /) -> Documents:
    """Returns those of a range [start:stop]."""


class SkipBudget:
  """How many faulty documents may be skipped; counts them, and the lines of files.

  Attributes:
    limit: the number that may be skipped.
    skipped: the number that was.
    lines_read: lines of files, blank ones included, that were read. With `lines_skipped` it is the
      number of lines there are.
    lines_skipped: lines that faulty documents were made of.
  """

  def __init__(self, limit: int = 0):
    self.limit = limit
    self.skipped = self.lines_read = self.lines_skipped = 0

  def skip(self, fault: errors.DataError) -> None:
    """Counts a faulty document and logs its fault; of many, the first.

    Args:
      fault: says what is wrong, and where: the file, the line and the byte.

    Raises:
      DataError: the fault, if no more may be skipped.
    """
    if self.skipped >= self.limit:
      raise errors.DataError(
        fault.what,
        value=fault.value,
        rule=fault.rule if self.limit == 0 else f"{fault.rule}; {self.limit} others were skipped",
        remedy=f"{fault.remedy} Or let up to N faulty documents be skipped: "
        "DatasetConfig.skip_budget = N.",
      ) from fault
    self.skipped += 1
    if self.skipped <= _SHOWN_FAULTS:
      logging.warning("Skipped: %s %s: %s", fault.what, fault.value, fault.rule)
    if self.skipped == _SHOWN_FAULTS:
      logging.warning("Further faulty documents are skipped without a word, and counted.")


def document_hash(document: str) -> int:
  """Returns a hash of the text, uniform in [0, 2**64), the same on every machine."""
  return int.from_bytes(hashlib.sha256(document.encode("utf-8")).digest()[:8], "big")


def split_documents(documents: Sequence[str]) -> dict[str, list[str]]:
  """Returns the documents of each split, in the order given.

  A document is held out when its hash falls in the lowest 5% of the range. If that holds out none
  (or all) of two or more different documents, the one with the lowest hash (or all but the one
  with the highest) is held out instead, so that neither split is empty.
  """
  hashes = [document_hash(document) for document in documents]
  threshold = int(VALIDATION_FRACTION * 2**64)
  if len(set(hashes)) >= 2:
    # Not above the highest hash, so that it trains; above the lowest, so that it is held out.
    threshold = min(max(threshold, min(hashes) + 1), max(hashes))
  held_out = [value < threshold for value in hashes]
  return {
    TRAIN: [d for d, out in zip(documents, held_out, strict=True) if not out],
    VALIDATION: [d for d, out in zip(documents, held_out, strict=True) if out],
  }


def split_and_shuffle(documents: Sequence[str]) -> dict[str, list[str]]:
  """Returns the documents of each split, in an order that is random but always the same."""
  return {split: _shuffle(texts) for split, texts in split_documents(documents).items()}


def _shuffle(documents: Sequence[str]) -> list[str]:
  keys = np.random.Philox(key=_SHUFFLE_SEED).random_raw(len(documents))
  return [documents[index] for index in np.argsort(keys, kind="stable")]
