#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs a command, and again where it can go on: scripts/launch/restart.sh COMMAND [ARGUMENT ...]
#   RESTART_ON=...      exit codes after which it is run again; else 75 (stopped, everything saved), 76 (a
#                       peer was lost) and those of aborts and kills: 134 135 137 138 139 143
#   RESTART_PAUSE=10    seconds before it is run again
#   RESTART_QUICK=600   a run of fewer seconds is a quick failure
#   RESTART_LIMIT=5     after so many quick failures in a row it gives up
# SIGTERM and Ctrl-C are passed on and end it. Its exit code is the command's last one.
set -uo pipefail
# The command has a process group of its own, so that Ctrl-C reaches it once, from here.
set -m

stopping="" signalled="" signal="" child="" code=0 quick=0

note() {
  signal=$1 signalled=1 stopping=1
  pass_on
}

pass_on() {
  if [ -n "$signal" ] && [ -n "$child" ]; then
    kill -s "$signal" "$child" 2>/dev/null
    signal=""
  fi
}

# Runs a command to its end, and sets `code`. A signal only interrupts `wait`.
run() {
  "$@" &
  child=$!
  pass_on  # what came before there was a child
  while true; do
    signalled=""
    wait "$child"
    code=$?
    if [ -z "$signalled" ]; then break; fi
  done
  child=""
}

if [ $# -eq 0 ] || [ "$1" = --help ]; then
  sed -n '3,/^set /s/^# \?//p' "$0"
  exit $(($# == 0 ? 2 : 0))
fi
trap 'note TERM' TERM HUP
trap 'note INT' INT
while true; do
  began=$SECONDS
  run "$@"
  ran=$((SECONDS - began))
  case " ${RESTART_ON:-75 76 134 135 137 138 139 143} " in
    *" $code "*) ;;
    *) exit "$code" ;;
  esac
  if [ -n "$stopping" ]; then exit "$code"; fi
  quick=$((ran < ${RESTART_QUICK:-600} ? quick + 1 : 0))
  if [ "$quick" -ge "${RESTART_LIMIT:-5}" ]; then
    echo "restart.sh: exit code $code; $quick quick failures in a row: giving up." >&2
    exit "$code"
  fi
  echo "restart.sh: exit code $code after $ran s; again in ${RESTART_PAUSE:-10} s." >&2
  last=$code
  run sleep "${RESTART_PAUSE:-10}"
  if [ -n "$stopping" ]; then exit "$last"; fi
done
