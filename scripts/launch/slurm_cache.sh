#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Prepares a task's data with the jobs of a Slurm array: from the repository's root, with the environment active,
#   sbatch --array=0-63 scripts/launch/slurm_cache.sh FLAGS OF switch_t5 cache
#   TOPOLOGY=h100:32   in front: plans the training for it first, and ends with exit code 1 if it does not fit
#   JOBS=64            for some of the jobs again: JOBS=64 sbatch --array=3,17 ...; what is written stays
#SBATCH --job-name=switch_t5_cache
#SBATCH --cpus-per-task=1
#SBATCH --output=%x-%A.log
#SBATCH --open-mode=append
set -euo pipefail
if [ "${1:---help}" = --help ]; then
  sed -n '3,/^#SBATCH/s/^# \?//p' "$0" | sed '/^SBATCH/d'
  exit $(($# == 0 ? 2 : 0))
fi
if [ -n "${TOPOLOGY:-}" ]; then
  switch_t5 plan --dry_run --topology="$TOPOLOGY" "$@"
fi
exec switch_t5 cache --job="$SLURM_ARRAY_TASK_ID/${JOBS:-$SLURM_ARRAY_TASK_COUNT}" "$@"
