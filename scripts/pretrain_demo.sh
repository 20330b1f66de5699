#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Trains a small Switch Transformer on text that comes with its own packages, into runs/demo.
# Stop it with Ctrl-C; the same command goes on. Arguments go to switch_t5, for instance:
#   scripts/pretrain_demo.sh --gin.TRAIN_STEPS=2000 --gin.MODEL_DIR="'runs/longer'"
set -euo pipefail
source "$(dirname "$0")/environment.sh"
enter_environment
exec "$(dirname "$VENV_PYTHON")/switch_t5" train --gin_file=recipes/pretrain_demo.gin \
  --gin.MODEL_DIR="'runs/demo'" "$@"
