# SPDX-License-Identifier: Apache-2.0
"""What a distillation is told."""

from __future__ import annotations

import dataclasses
from typing import Any

from switch_t5.errors import ConfigError
from switch_t5.sharding.rules import PARAMETER_RULES

_LEAST_TEMPERATURE = 1e-3  # below, float32 logits over it overflow
_TEACHER_DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Distillation:
  """Trains a student on a teacher's probabilities beside the targets (section 4.2 of the paper).

  The loss of a token is (1 - s) * hard + s * tau^2 * soft: soft is the cross-entropy with the
  teacher's probabilities softmax(logits / tau), over the ids of the vocabulary; the z-loss counts whole.

  Attributes:
    fraction_soft: FRACTION_SOFT, s in [0, 1].
    temperature: TEMPERATURE, tau, above 0.
    teacher_path: TEACHER_PATH: a checkpoint of any format that `convert` knows, or a run's folder. It is
      kept in memory, frozen, and asked without dropping tokens, dropout or jitter.
    teacher_cache: TEACHER_CACHE: what `cache_teacher` wrote of it; then no teacher is loaded. None: the
      teacher is asked in each step.
    teacher_dtype: of the teacher's parameters and activations, "float32" or "bfloat16"; its router is
      always float32.
    teacher_sharding: "replicated" or "fsdp", as train.parameter_sharding.
  """

  fraction_soft: float = 0.25
  temperature: float = 1.0
  teacher_path: str | None = None
  teacher_cache: str | None = None
  teacher_dtype: str = "float32"
  teacher_sharding: str = "replicated"

  def __post_init__(self):
    rules = {
      "fraction_soft": (in_range(self.fraction_soft, 0.0, 1.0), "a number from 0 to 1"),
      "temperature": (
        in_range(self.temperature, _LEAST_TEMPERATURE, 1.0 / _LEAST_TEMPERATURE),
        f"a number above 0, from {_LEAST_TEMPERATURE:g} to {1.0 / _LEAST_TEMPERATURE:g}",
      ),
      "teacher_path": (_is_path_or_none(self.teacher_path), "a path in quotes, or None"),
      "teacher_cache": (_is_path_or_none(self.teacher_cache), "a path in quotes, or None"),
      "teacher_dtype": (
        self.teacher_dtype in _TEACHER_DTYPES,
        f"one of {', '.join(map(repr, _TEACHER_DTYPES))}",
      ),
      "teacher_sharding": (
        self.teacher_sharding in PARAMETER_RULES,
        f"one of {', '.join(map(repr, PARAMETER_RULES))}",
      ),
    }
    for name, (holds, rule) in rules.items():
      if not holds:
        raise ConfigError(
          f"Distillation.{name} is not valid.",
          value=repr(getattr(self, name)),
          rule=f"it is {rule}",
        )
    if self.teacher_path is None and self.teacher_cache is None:
      raise ConfigError(
        "There is no teacher.",
        rule="Distillation.teacher_path or Distillation.teacher_cache is set",
        remedy="TEACHER_PATH = 'runs/teacher', or train.distillation = None",
      )


def in_range(value: Any, least: float, most: float) -> bool:
  """Says whether a value is a number, and in the range; NaN is in none."""
  is_number = isinstance(value, int | float) and not isinstance(value, bool)
  return is_number and least <= value <= most


def _is_path_or_none(value: Any) -> bool:
  return value is None or (isinstance(value, str) and bool(value.strip()))
