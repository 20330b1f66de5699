#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Checks style, formatting and types.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
enter_environment
"$VENV_PYTHON" -m ruff check .
"$VENV_PYTHON" -m ruff format --check .
"$VENV_PYTHON" -m mypy
"$VENV_PYTHON" -m pip check
# Known holes in what is installed: asked of PyPI's database, where it can be reached.
if "$VENV_PYTHON" -c "import pip_audit" 2>/dev/null; then
  "$VENV_PYTHON" -m pip_audit --progress-spinner=off || echo "NOT CLEAN, or the database was not reached: see above." >&2
else
  echo "Known holes of dependencies: not asked for; pip install pip-audit does." >&2
fi
