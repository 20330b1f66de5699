#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Trains on all GPUs of this machine, one process, with the environment of switch_t5 active:
#   scripts/launch/gpu_node.sh FLAGS OF switch_t5 train
#   TOPOLOGY=h100:8   in front: plans for it first, and ends with exit code 1 if it does not fit
# Ctrl-C or SIGTERM saves and ends it; aborts of the runtime are gone on from (restart.sh --help).
set -euo pipefail
if [ "${1:---help}" = --help ]; then
  sed -n '3,/^set /s/^# \?//p' "$0"
  exit $(($# == 0 ? 2 : 0))
fi
if [ -n "${TOPOLOGY:-}" ]; then
  switch_t5 plan --dry_run --topology="$TOPOLOGY" "$@"
fi
exec bash "$(dirname "$0")/restart.sh" switch_t5 train --platform=gpu "$@"
