#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Trains on the nodes of a Slurm job: from the repository's root, with the environment of switch_t5 active,
#   sbatch --nodes=4 --gpus-per-node=8 --time=24:00:00 scripts/launch/slurm.sh FLAGS OF switch_t5 train
#   TOPOLOGY=h100:32   in front: plans for it first, and ends with exit code 1 if it does not fit
# A node has one process with all its GPUs; --ntasks-per-node=8 gives each of eight GPUs one of its own.
# Two minutes before its time is over, or by `scancel --signal=TERM JOB`, it saves and is queued again.
#SBATCH --job-name=switch_t5
#SBATCH --ntasks-per-node=1
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail
if [ "${1:---help}" = --help ]; then
  sed -n '3,/^#SBATCH/s/^# \?//p' "$0" | sed '/^SBATCH/d'
  exit $(($# == 0 ? 2 : 0))
fi
if [ -n "${TOPOLOGY:-}" ]; then
  switch_t5 plan --dry_run --topology="$TOPOLOGY" "$@"
fi
# JAX takes one GPU for each process of a Slurm job, unless it is told otherwise.
if [ -n "${SLURM_GPUS_ON_NODE:-}" ] && [ "$SLURM_NTASKS" = "$SLURM_NNODES" ]; then
  JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((SLURM_GPUS_ON_NODE - 1)))
  export JAX_LOCAL_DEVICE_IDS
fi
# Signals go to the processes, not to this script: 75 is for the queue. All processes start again together.
code=0
RESTART_ON="76 134 135 137 138 139" bash scripts/launch/restart.sh \
  srun --wait=600 switch_t5 train --coordinator_address=auto "$@" || code=$?
if [ "$code" = 75 ]; then
  echo "slurm.sh: exit code 75: queued again." >&2
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
