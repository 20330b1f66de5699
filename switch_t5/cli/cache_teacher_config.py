# SPDX-License-Identifier: Apache-2.0
"""What `switch_t5 cache_teacher` is told beside the run of the students."""

from __future__ import annotations

import dataclasses

from switch_t5.distill.teacher_cache import PROBS_DTYPES
from switch_t5.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class CacheTeacher:
  """Asks a teacher once for its greatest probabilities of the rows that students will read.

  Teacher, temperature, place, data and mesh are those of `train`.

  Attributes:
    num_rows: rows of the training stream, from the first on; None: TRAIN_STEPS * BATCH_SIZE.
    top_k: probabilities that are kept of each target.
    probs_dtype: in which they are, "float16" or "float32".
  """

  num_rows: int | None = None
  top_k: int = 64
  probs_dtype: str = PROBS_DTYPES[0]

  def __post_init__(self):
    rules = {
      "num_rows": (self.num_rows is None or _is_count(self.num_rows), "a number of rows, or None"),
      "top_k": (_is_count(self.top_k), "a whole number, at least 1"),
      "probs_dtype": (self.probs_dtype in PROBS_DTYPES, f"one of {', '.join(PROBS_DTYPES)}"),
    }
    for name, (holds, rule) in rules.items():
      if not holds:
        raise ConfigError(
          f"cache_teacher.{name} is not valid.",
          value=repr(getattr(self, name)),
          rule=f"it is {rule}",
        )


def _is_count(value: object) -> bool:
  return isinstance(value, int) and not isinstance(value, bool) and value >= 1
