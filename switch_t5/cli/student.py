# SPDX-License-Identifier: Apache-2.0
"""A student from its teacher: opened early, its vocabulary checked, the teacher's experts counted."""

from __future__ import annotations

import itertools

import numpy as np

from switch_t5.cli import model_file
from switch_t5.cli.distillation_config import Distillation
from switch_t5.cli.run_data import RunData
from switch_t5.cli.session import Session
from switch_t5.cli.teacher import open_teacher
from switch_t5.cli.train_config import InitialCheckpoint
from switch_t5.data.vocabulary import Vocabulary
from switch_t5.errors import DataError
from switch_t5.interop import detect
from switch_t5.interop.student import StudentParameters
from switch_t5.losses.objective import LossConfig
from switch_t5.model.router_places import router_places
from switch_t5.storage import files
from switch_t5.training.eval_step import build_eval_step
from switch_t5.training.objective import CrossEntropyObjective

LOAD_BATCHES = 16


def open_student(given: InitialCheckpoint, session: Session) -> StudentParameters:
  """Opens the teacher that a student starts from; raises what `StudentParameters` does."""
  teacher = detect.open_checkpoint(str(given.path))
  return StudentParameters(teacher, session.definition, str(given.as_teacher))


def check_vocabulary(student: StudentParameters, vocabulary: Vocabulary) -> None:
  """Raises DataError if the teacher says which vocabulary it has, and it is not that of the data."""
  teacher = student.teacher
  path = teacher.tokenizer or model_file.vocabulary_of(teacher.path)
  if path is None or not files.is_file(path):
    return
  if Vocabulary(path).fingerprint != vocabulary.fingerprint:
    raise DataError(
      "The student's data have another vocabulary than its teacher.",
      value=f"{vocabulary.path}; {path} in {teacher.path}",
      rule="a row of the teacher's table is of the same id in the student",
      remedy="VOCABULARY_PATH of the teacher, or InitialCheckpoint.as_teacher = None and no "
      "INITIAL_CHECKPOINT_PATH",
    )


def expert_loads(path: str, session: Session, data: RunData) -> dict[str, np.ndarray]:
  """Returns how many tokens of the first training batches chose each expert, none being dropped.

  Args:
    path: of the teacher, which is in memory until this is done.
    session: of the student, on whose mesh and batches the teacher is asked.
    data: of the run; its reader is not touched.

  Returns:
    [E] by layer, e.g. "encoder/layers_3".
  """
  layout = session.config.parameter_sharding
  teacher = open_teacher(Distillation(teacher_path=path, teacher_sharding=layout), session)
  objective = CrossEntropyObjective(LossConfig(), None)
  parts = session.config.num_microbatches
  step = build_eval_step(teacher.definition, objective, session.mesh, parts)
  batches = itertools.islice(data.train_reader(session.rows), LOAD_BATCHES)
  sums = [step(teacher.params, session.place(batch)).sums.expert_load for batch in batches]
  loads = np.sum([np.asarray(load) for load in sums], axis=0)
  names = [place.name.removesuffix("/mlp") for place in router_places(teacher.definition.config)]
  return {
    name.replace("/layer_", "/layers_"): load for name, load in zip(names, loads, strict=True)
  }
