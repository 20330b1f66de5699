# SPDX-License-Identifier: Apache-2.0
"""What gin may configure: this list and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from switch_t5.cli.cache_teacher_config import CacheTeacher
from switch_t5.cli.dataset import DatasetConfig
from switch_t5.cli.distillation_config import Distillation
from switch_t5.cli.infer_config import InferConfig, LoadConfig
from switch_t5.cli.train_config import (
  EvalConfig,
  InitialCheckpoint,
  TaskEvaluation,
  TrainConfig,
)
from switch_t5.decoding.config import DecodingConfig
from switch_t5.losses.objective import LossConfig
from switch_t5.metrics.alarms import AlarmConfig
from switch_t5.model.config import ModelConfig
from switch_t5.model.router_config import RouterConfig
from switch_t5.optim.adafactor import adafactor
from switch_t5.optim.adamw import adamw
from switch_t5.optim.schedules import learning_rate_schedule
from switch_t5.training.bad_steps import BadSteps

CONFIGURABLES: dict[str, Callable[..., Any]] = {
  "train": TrainConfig,
  "evaluate": EvalConfig,
  "cache_teacher": CacheTeacher,
  "infer": InferConfig,
  "LoadConfig": LoadConfig,
  "ModelConfig": ModelConfig,
  "RouterConfig": RouterConfig,
  "DatasetConfig": DatasetConfig,
  "LossConfig": LossConfig,
  "InitialCheckpoint": InitialCheckpoint,
  "TaskEvaluation": TaskEvaluation,
  "AlarmConfig": AlarmConfig,
  "BadSteps": BadSteps,
  "Distillation": Distillation,
  "DecodingConfig": DecodingConfig,
  "adafactor": adafactor,
  "adamw": adamw,
  "learning_rate_schedule": learning_rate_schedule,
}
