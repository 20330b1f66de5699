#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Kills, damages and reshapes runs of the demo's model and prints what held (about half an hour), and
# plans it for TPUs that are not here (the extra `plan`):
#   scripts/drill.sh [kills] [damage] [meshes] [plans]
#   PYTHON=...   the interpreter to use
set -euo pipefail
source "$(dirname "$0")/environment.sh"
enter_environment
export PYTHONPATH=tests${PYTHONPATH:+:$PYTHONPATH} JAX_PLATFORMS=cpu
exec "$VENV_PYTHON" tests/faults/drills.py "$@"
