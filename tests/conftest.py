# SPDX-License-Identifier: Apache-2.0
"""What every test runs on: eight emulated CPU devices, one compilation cache, strict promotion.

The environment must be set before JAX is imported, so this file imports nothing that imports JAX
above that point. `switch_t5` comes before `jax` because it sets the memory allocator's thresholds.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

pytest_plugins = ["object_stores"]

EMULATED_DEVICES = 8
_DEVICE_FLAG = "--xla_force_host_platform_device_count"
# Compiles in a third of the time; what runs longer for it are loops that tests keep tiny.
_QUICK_COMPILATION = "--xla_backend_optimization_level=0"


def _cache_directory() -> str:
  """Returns where compiled programs are kept between runs of the suite, per Python version."""
  default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "switch_t5" / "tests"
  root = Path(os.environ.get("SWITCH_T5_TEST_CACHE") or default)
  return str(root / f"python{sys.version_info.major}.{sys.version_info.minor}")


def _set_environment() -> None:
  """Sets what JAX reads at import; the processes that tests start inherit it."""
  flags = [f for f in os.environ.get("XLA_FLAGS", "").split() if not f.startswith(_DEVICE_FLAG)]
  flags += [f"{_DEVICE_FLAG}={EMULATED_DEVICES}", _QUICK_COMPILATION]
  os.environ["XLA_FLAGS"] = " ".join(flags)
  # XLA's pool of threads: see `switch_t5.cli.platform`.
  os.environ["NPROC"] = str(8 * EMULATED_DEVICES)
  os.environ["JAX_PLATFORMS"] = "cpu"
  os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache_directory()
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
  os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"


_set_environment()

import switch_t5  # noqa: E402, F401, I001
import jax  # noqa: E402

# Only in this process: the commands that tests start run as users run them.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
