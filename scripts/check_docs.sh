#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs every command of README.md, CONTRIBUTING.md and docs/guides/ in a scratch folder, with models
# that take seconds, and prints what became of each: scripts/check_docs.sh [PAGE ...]
#   PYTHON=...   the interpreter to use
set -euo pipefail
source "$(dirname "$0")/environment.sh"
enter_environment
export PYTHONPATH=tests${PYTHONPATH:+:$PYTHONPATH}
exec "$VENV_PYTHON" tests/docs/run_pages.py "$@"
