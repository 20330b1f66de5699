#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Checks style, formatting and types.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
enter_environment
"$VENV_PYTHON" -m ruff check .
"$VENV_PYTHON" -m ruff format --check .
"$VENV_PYTHON" -m mypy
