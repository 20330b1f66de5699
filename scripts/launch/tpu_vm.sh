#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Trains on Cloud TPU VMs, one slice or several, asked for as a queued resource:
#   scripts/launch/tpu_vm.sh [--dry_run] STEP [FLAGS OF switch_t5 train]
#   create        asks for the slices, and waits until they are there
#   install       copies this checkout to every worker, and installs it there
#   start FLAGS   trains on every worker; each goes on where it can (restart.sh --help)
#   log           follows the log of the first worker
#   stop          SIGTERM on every worker: the run saves and ends
#   delete        gives the slices back
#   keep FLAGS    create, install, start; and again, whenever the slices are taken away
#   --dry_run     prints gcloud's commands and runs none of them
#   TOPOLOGY=v5p:4x4x4   in front of start or keep: plans for it first, here
# What is asked for, by variables of these names:
NAME=${NAME:-switch-t5}
ZONE=${ZONE:-us-east5-a}
TYPE=${TYPE:-v5p-128}       # v5p-CORES, v5litepod-CHIPS, v6e-CHIPS
SLICES=${SLICES:-1}
OPTIONS=${OPTIONS:---spot}  # --reserved, --network=..., and what else gcloud takes
set -euo pipefail

case $TYPE in
  v5litepod-*) VERSION=v2-alpha-tpuv5-lite ;;
  v5p-*) VERSION=v2-alpha-tpuv5 ;;
  v6e-*) VERSION=v2-alpha-tpuv6e ;;
  *) VERSION=tpu-ubuntu2204-base ;;
esac
DRY_RUN=""

# The arguments as a shell reads them.
quoted() { if [ $# -gt 0 ]; then printf ' %q' "$@"; fi; }

queued() {
  if [ -n "$DRY_RUN" ]; then
    echo "gcloud compute tpus queued-resources$(quoted "$@" --zone="$ZONE")"
  else
    gcloud compute tpus queued-resources "$@" --zone="$ZONE"
  fi
}

everywhere() { queued ssh "$NAME" --node=all --worker=all --command="$1"; }

first() { queued ssh "$NAME" --node=0 --worker=0 --command="$1"; }

state() { queued describe "$NAME" --format="value(state.state)"; }

create() {
  local nodes=(--node-id="$NAME") options
  if [ "$SLICES" != 1 ]; then nodes=(--node-count="$SLICES" --node-prefix="$NAME"); fi
  read -ra options <<<"$OPTIONS"
  queued create "$NAME" "${nodes[@]}" --accelerator-type="$TYPE" --runtime-version="$VERSION" "${options[@]}"
  if [ -n "$DRY_RUN" ]; then
    state
    return
  fi
  until [ "$(state)" = ACTIVE ]; do sleep 30; done
}

# Python 3.12 is uv's: these machines come with 3.10.
install() {
  if [ -z "$DRY_RUN" ]; then git archive --format=tar.gz --output="$ARCHIVE" HEAD; fi
  queued scp "$ARCHIVE" "$NAME:switch_t5.tar.gz" --node=all --worker=all
  everywhere "mkdir -p switch_t5 && tar -xzf switch_t5.tar.gz -C switch_t5"
  everywhere "python3 -m pip install --quiet --user uv && ~/.local/bin/uv venv --clear --python 3.12 switch_t5/.venv"
  everywhere "cd switch_t5 && ~/.local/bin/uv pip install --python .venv/bin/python .[gcs] jax[tpu]"
}

start() {
  if [ -n "${TOPOLOGY:-}" ]; then
    switch_t5 plan --dry_run --topology="$TOPOLOGY" "$@"
  fi
  local train="switch_t5 train --platform=tpu --coordinator_address=auto"
  train="nohup bash scripts/launch/restart.sh $train$(quoted "$@") </dev/null >>train.log 2>&1"
  everywhere "cd switch_t5 && export PATH=\$PWD/.venv/bin:\$PATH && { $train & echo \$! >train.pid; }"
}

keep() {
  while true; do
    create
    install
    start "$@"
    if [ -n "$DRY_RUN" ]; then return; fi
    while first "kill -0 \$(cat switch_t5/train.pid)"; do sleep 60; done
    sleep 120  # the state of what is taken away changes after the machines are gone
    if [ "$(state)" = ACTIVE ]; then return; fi  # the run has ended
    delete
  done
}

delete() { queued delete "$NAME" --force --quiet; }

if [ "${1:-}" = --dry_run ]; then
  DRY_RUN=1
  shift
fi
ARCHIVE=${TMPDIR:-/tmp}/switch_t5.tar.gz
case ${1:---help} in
  create | install | delete) "$1" ;;
  start | keep) "$@" ;;
  log) first "tail -n 100 -F switch_t5/train.log" ;;
  stop) everywhere "kill -TERM \$(cat switch_t5/train.pid)" ;;
  *)
    sed -n '3,/^set /s/^# \?\|^\([A-Z]\+=\)/  \1/p' "$0"
    if [ "${1:-}" = --help ]; then exit 0; fi
    exit 2
    ;;
esac
