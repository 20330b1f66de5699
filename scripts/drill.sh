#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Kills, damages, reshapes and misleads real runs, and prints what held:
#   scripts/drill.sh [--quick] [NAME ...]   the names are in tests/faults/drill.py; without one, all
#   PYTHON=...                              the interpreter to use
set -euo pipefail
source "$(dirname "$0")/environment.sh"
enter_environment
exec "$VENV_PYTHON" -m tests.faults.drill "$@"
