# SPDX-License-Identifier: Apache-2.0
"""The step that a configuration is of, laid out on devices that need not be there.

Nothing is read but sizes: a teacher's or a checkpoint's path may also name a gin file of a model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from switch_t5.cli import gin_setup, model_file
from switch_t5.cli.configurables import CONFIGURABLES
from switch_t5.cli.configuration import Configuration
from switch_t5.cli.distillation_config import Distillation
from switch_t5.cli.infer_config import AT_ONCE, InferConfig
from switch_t5.cli.load import find, for_inference
from switch_t5.cli.session import Session, open_session
from switch_t5.cli.teacher import lay_out
from switch_t5.cli.train_config import TrainConfig
from switch_t5.distill.soft_targets import CachedTeacher, LiveTeacher
from switch_t5.distill.teacher_cache import TeacherCache
from switch_t5.inference.programs import Programs, bucket
from switch_t5.model.config import ModelConfig
from switch_t5.model.definition import define_model
from switch_t5.planning.step import Step, state_arrays
from switch_t5.sharding.mesh import MeshShape, make_mesh
from switch_t5.training.state import abstract_params, device_bytes

_EOS = 1


class LaidOut(NamedTuple):
  """A step on its devices.

  Attributes:
    mesh: of the devices.
    trace: traces the step; call it on the mesh.
    teacher_bytes: of one device; of a distillation whose teacher is in memory.
  """

  mesh: Mesh
  trace: Callable[[], jax.stages.Traced]
  teacher_bytes: int = 0


class Training:
  """The step of a training run, or of a distillation.

  Attributes:
    step: as it is configured.
    arrays: parameters and optimizer's state.
    loop_trips: of a loop that ends when it is done: there is none.
  """

  loop_trips = 1

  def __init__(self, config: TrainConfig):
    self._config = config
    lengths = (config.dataset.encoder_length, config.dataset.decoder_length)
    self.step = Step(
      "train" if config.distillation is None else "distill",
      config.model.with_lengths(lengths[0]),
      config.dataset.batch_size,
      lengths,
      MeshShape.parse(config.mesh_shape),
      config.parameter_sharding,
      config.num_microbatches,
    )
    definition = define_model(self.step.model)
    self.arrays = state_arrays(definition, config.make_optimizer(definition))

  def lay_out(self, step: Step, devices: Sequence[jax.Device]) -> LaidOut:
    """Lays the step out; raises MeshError if it does not divide over the mesh."""
    config = dataclasses.replace(
      self._config,
      model=dataclasses.replace(self._config.model, remat=step.model.remat),
      mesh_shape=step.mesh,
      parameter_sharding=step.parameter_sharding,
      num_microbatches=step.microbatches,
    )
    session = open_session(config, devices)
    teaching = self._teaching(session)
    frozen = teaching.get("frozen")
    return LaidOut(
      session.mesh,
      lambda: session.trace_train_step(session.abstract, **teaching),
      0 if frozen is None else device_bytes(frozen),
    )

  def _teaching(self, session: Session) -> dict[str, Any]:
    """Returns what `Session.trace_train_step` takes of a teacher."""
    given = self._config.distillation
    if given is None:
      return {}
    if given.teacher_cache:
      cache = TeacherCache(given.teacher_cache)
      said = CachedTeacher(given.fraction_soft, given.temperature, cache.num_ids)
      return {"soft_targets": said, "teacher_k": cache.k}
    definition, _, kept = lay_out(self._teachers_model(given), given, session.mesh)
    num_ids = min(session.model.vocab_size, definition.config.vocab_size)
    live = LiveTeacher(definition, given.fraction_soft, given.temperature, num_ids)
    return {"soft_targets": live, "frozen": kept}

  def _teachers_model(self, given: Distillation) -> ModelConfig:
    return _model_of(str(given.teacher_path), self._config.dataset.vocabulary_path)


class Inference:
  """The program of `infer`: encodes a batch and decodes its answers.

  Attributes:
    step: as it is configured.
    arrays: the parameters.
    loop_trips: positions of an answer, if none ends early.
  """

  def __init__(self, config: InferConfig):
    self._decoding = config.decoding
    model = _model_of(config.model.path, config.model.vocabulary_path)
    self.step = Step(
      "infer",
      for_inference(model, config.model.dtype),
      config.model.rows(AT_ONCE),
      (bucket(config.task_feature_lengths["inputs"]), bucket(config.decoding.max_tokens)),
      MeshShape.parse(config.model.mesh_shape),
    )
    self.arrays = state_arrays(define_model(self.step.model))
    self.loop_trips = self.step.lengths[1]

  def lay_out(self, step: Step, devices: Sequence[jax.Device]) -> LaidOut:
    """Lays the program out; raises MeshError if it does not divide over the mesh."""
    step.model.check_mesh(step.mesh, step.rows, 1)
    mesh = make_mesh(step.mesh, devices)
    definition = define_model(step.model)
    programs = Programs(definition, mesh, step.rows, _EOS)
    params = abstract_params(definition, mesh)
    return LaidOut(mesh, lambda: programs.trace_decode(params, step.lengths[0], self._decoding))


def configured(configuration: Configuration) -> Training | Inference:
  """Returns the step that a configuration is of: of `infer` if it sets any of its parameters."""
  if any(name.startswith("infer.") for name in configuration.bindings()):
    return Inference(configuration.call("infer"))
  return Training(configuration.call("train"))


def _model_of(path: str, vocabulary_path: str | None) -> ModelConfig:
  """Returns the model of a checkpoint, or of a gin file of `models/`."""
  if not path.endswith(".gin"):
    return find(path, otherwise=vocabulary_path).config
  configuration = gin_setup.load([path], model_file.NO_DROPOUT, [], CONFIGURABLES, "ModelConfig")
  model: ModelConfig = configuration.call("ModelConfig")
  return model
