# SPDX-License-Identifier: Apache-2.0
"""Three ways for a file to be damaged."""

from __future__ import annotations

import pathlib


def flip_a_bit(file: pathlib.Path) -> None:
  """Flips one bit in the middle; the size stays."""
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 1 << 3
  file.write_bytes(content)


def truncate(file: pathlib.Path) -> None:
  """Cuts the second half off."""
  content = file.read_bytes()
  file.write_bytes(content[: len(content) // 2])


DAMAGES = {"one bit flipped": flip_a_bit, "missing": pathlib.Path.unlink, "truncated": truncate}
