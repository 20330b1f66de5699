# SPDX-License-Identifier: Apache-2.0
"""How large JSON may be that is parsed: a bomb of it takes GBs, or the depth of the stack."""

from __future__ import annotations

MAX_BYTES = 64 << 20  # Switch-C's index at Hugging Face has some 13 MB
MAX_VALUES = 1_000_000  # a manifest of some 300,000 files


def count_values(raw: bytes) -> int:
  """Returns about how many values there are; counted before they are made."""
  return raw.count(b",") + raw.count(b"[") + raw.count(b"{")


def is_too_large(raw: bytes) -> bool:
  """Returns whether JSON is not to be parsed."""
  return len(raw) > MAX_BYTES or count_values(raw) > MAX_VALUES
