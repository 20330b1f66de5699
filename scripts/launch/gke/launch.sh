#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Trains on Kubernetes by a JobSet (0.10 or newer), jobset-tpu.yaml or jobset-gpu.yaml:
#   scripts/launch/gke/launch.sh [--dry_run] tpu|gpu FLAGS OF switch_t5 train
#   --dry_run            prints the manifest, and sends nothing
#   TOPOLOGY=v5p:4x4x4   in front: plans for it first, here
# What the manifests leave open are variables of the environment: NAME IMAGE ACCELERATOR HOSTS CHIPS, for TPUs also
# SHAPE SLICES. The manifests say what they are.
set -euo pipefail
dry_run=""
if [ "${1:-}" = --dry_run ]; then
  dry_run=1
  shift
fi
case ${1:---help} in
  tpu | gpu) manifest=$(dirname "$0")/jobset-$1.yaml ;;
  *)
    sed -n '3,/^set /s/^# \?//p' "$0"
    if [ "${1:-}" = --help ]; then exit 0; fi
    exit 2
    ;;
esac
shift
if [ -n "${TOPOLOGY:-}" ]; then
  switch_t5 plan --dry_run --topology="$TOPOLOGY" "$@" >&2
fi
# $(...) is Kubernetes's; ${...} is ours.
FLAGS=$(python3 -c 'import json, sys; print(json.dumps(sys.argv[1:]))' "$@")
export FLAGS
filled=$(python3 -c '
import os, re, sys
given = lambda name: os.environ.get(name[1]) or sys.exit(f"launch.sh: set {name[1]}; the manifest says what it is.")
lines = (line for line in sys.stdin if not line.startswith("#"))
print(re.sub(r"\$\{(\w+)\}", given, "".join(lines)), end="")
' <"$manifest")
if [ -n "$dry_run" ]; then
  echo "$filled"
else
  kubectl apply --filename=- <<<"$filled"
fi
