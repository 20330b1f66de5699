#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Kills, damages, reshapes and misleads real runs and prints what held (about an hour); plans one for
# TPUs that are not here (the extra `plan`):
#   scripts/drill.sh [NAME ...]   the names are in tests/faults/drills.py; without one, all
#   PYTHON=...                    the interpreter to use
set -euo pipefail
source "$(dirname "$0")/environment.sh"
enter_environment
export PYTHONPATH=tests${PYTHONPATH:+:$PYTHONPATH} JAX_PLATFORMS=cpu
exec "$VENV_PYTHON" tests/faults/drills.py "$@"
