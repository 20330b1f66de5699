# SPDX-License-Identifier: Apache-2.0
"""Switch Transformers (Fedus, Zoph, Shazeer, JMLR 2022) in JAX: training, evaluation, distillation."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

__version__ = "0.1.0"


def _keep_freed_memory() -> None:
  """Makes glibc reuse XLA's large temporaries instead of unmapping them every step.

  On CPU, XLA allocates its temporaries anew each step; by default glibc maps and unmaps them, which
  costs some 100,000 page faults a step. The thresholds only take hold before JAX's threads start.
  """
  mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc only
  if mallopt is not None:
    m_trim_threshold, m_mmap_threshold, m_arena_max = -1, -3, -8
    mallopt(m_arena_max, 1)
    mallopt(m_mmap_threshold, 2**31 - 1)
    mallopt(m_trim_threshold, 2**31 - 1)


if sys.platform == "linux" and "jax" not in sys.modules:
  _keep_freed_memory()


def __getattr__(name: str) -> Any:
  """`switch_t5.load` is imported when it is asked for: it brings JAX and all of the package."""
  if name == "load":
    from switch_t5.cli.load import load

    return load
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
