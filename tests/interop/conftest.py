# SPDX-License-Identifier: Apache-2.0
"""These tests import PyTorch: they are collected only when they are asked for, `-m interop`."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is looked up, nothing is downloaded


def pytest_ignore_collect(config) -> bool | None:
  asked = config.getoption("markexpr")
  return True if "interop" not in asked or "not interop" in asked else None
