# SPDX-License-Identifier: Apache-2.0
"""A small PNG of coloured cells, for pictures of more cells than a page should have elements."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def of_cells(cells: np.ndarray, palette: Sequence[tuple[int, int, int]]) -> bytes:
  """Returns a PNG of a pixel for each cell.

  Args:
    cells: uint8 [rows, columns], places in the palette.
    palette: red, green and blue from 0 to 255; at most 256 colours.
  """
  rows, columns = cells.shape
  header = struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0)  # 8 bits, palette
  lines = b"".join(b"\0" + bytes(row) for row in cells.astype(np.uint8))
  return (
    _SIGNATURE
    + _chunk(b"IHDR", header)
    + _chunk(b"PLTE", bytes(value for colour in palette for value in colour))
    + _chunk(b"IDAT", zlib.compress(lines, 9))
    + _chunk(b"IEND", b"")
  )


def _chunk(kind: bytes, content: bytes) -> bytes:
  return (
    struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
  )
