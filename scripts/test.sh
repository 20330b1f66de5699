#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the tests; arguments go to pytest: scripts/test.sh tests/unit/cli -k macro
#   PYTHON=...                the interpreter to use
#   SWITCH_T5_TEST_CACHE=...  where compiled programs are kept between runs
set -euo pipefail
source "$(dirname "$0")/environment.sh"
enter_environment
export SWITCH_T5_TEST_CACHE=${SWITCH_T5_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/switch_t5/tests}
# Each file's tests in one process, so that what they share is compiled once; `-n 0` for a single one.
exec "$VENV_PYTHON" -m pytest -n auto --maxprocesses=4 --dist loadfile "$@"
