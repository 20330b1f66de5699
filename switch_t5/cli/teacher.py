# SPDX-License-Identifier: Apache-2.0
"""The teacher of a distillation: a model in memory, or what one said, from its cache.

Either is found and checked before data are opened, and says what the step needs of it.
"""

from __future__ import annotations

import functools
import math
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from switch_t5.checkpoint.initial import InitialParameters
from switch_t5.cli.distillation_config import Distillation
from switch_t5.cli.load import FoundModel, find, for_inference
from switch_t5.cli.run_data import Reader, RunData
from switch_t5.cli.session import Session
from switch_t5.data.vocabulary import embedded_vocabulary_path
from switch_t5.distill.soft_targets import CachedTeacher, LiveTeacher
from switch_t5.distill.teacher_cache import CachedTeacherReader, TeacherCache
from switch_t5.errors import DataError
from switch_t5.interop import detect
from switch_t5.interop.fingerprint import fingerprint
from switch_t5.model.config import ModelConfig
from switch_t5.model.definition import ModelDefinition, define_model
from switch_t5.sharding.mesh import MeshShape
from switch_t5.sharding.rules import PARAMETER_RULES
from switch_t5.storage import files
from switch_t5.storage.location import Location, location
from switch_t5.training.objective import SoftTargets
from switch_t5.training.state import abstract_params, device_bytes, shardings
from switch_t5.types import PyTree


class Teaching(Protocol):
  """What a run asks of its teacher.

  Attributes:
    k: probabilities of a target that the batch brings; 0: none, the teacher is a model.
  """

  k: int

  @property
  def params(self) -> PyTree:
    """What the step is given beside state and batch."""

  @property
  def fingerprint(self) -> str:
    """Of the teacher's checkpoint."""

  def record(self) -> dict[str, str]:
    """Returns what a run's record says of it."""

  def describe(self) -> str:
    """Returns a line: what it is."""

  def check(self, data: RunData, session: Session) -> None:
    """Raises DataError if it is not a teacher of the run's data."""

  def reader(self, reader: Reader, rows: np.ndarray) -> Reader:
    """Returns a reader of batches with what the step needs of them."""

  def soft_targets(self, vocab_size: int) -> SoftTargets:
    """Returns its part of the loss, for a student that knows so many ids."""


class Teacher:
  """A model whose probabilities a student learns; nothing of it changes. A `Teaching`.

  Attributes:
    definition: of the model, for inference.
    abstract: its parameters' shapes, types and shardings.
  """

  k = 0

  def __init__(self, found: FoundModel, config: Distillation, mesh: Mesh):
    self._found, self._config = found, config
    self.definition, self._whole, self.abstract = lay_out(found.config, config, mesh)

  @property
  def path(self) -> Location:
    """Of the checkpoint."""
    return self._found.path

  @property
  def num_ids(self) -> int:
    """Ids that it knows, without the padding of its table."""
    return self.definition.config.vocab_size

  @functools.cached_property
  def fingerprint(self) -> str:
    """Of the checkpoint's content."""
    return fingerprint(self.path)

  @functools.cached_property
  def params(self) -> PyTree:
    """Its values on the mesh; read when first asked for."""
    initial = InitialParameters(self._found.source, self.definition.shapes)
    like = jax.tree.map(lambda leaf: leaf.dtype, self.abstract)
    cast = jax.jit(
      lambda params: jax.tree.map(lambda x, dtype: x.astype(dtype), params, like),
      out_shardings=shardings(self.abstract),
      donate_argnums=0,
    )
    return cast(initial.load(self._whole))

  def record(self) -> dict[str, str]:
    """See `Teaching`."""
    return {
      "path": str(self.path),
      "format": self._found.source.format,
      "fingerprint": self.fingerprint,
    }

  def describe(self) -> str:
    """Returns a line: what it is, and the memory that it takes of a device."""
    model = self.definition.config
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(self.abstract))
    size = device_bytes(self.abstract)
    return (
      f"Teacher: {model.kind}, {count:,} parameters, {model.activation_dtype}, {size / 1e6:,.1f} MB of "
      f"each device; {self.path} ({self._found.source.format})"
    )

  def check(self, data: RunData, session: Session) -> None:
    """See `Teaching`: its ids are those of the run's data."""
    if self._found.vocabulary.fingerprint != data.vocabulary.fingerprint:
      raise DataError(
        "The teacher has another vocabulary than the student's data.",
        value=f"{self._found.vocabulary.path}, not {data.vocabulary.path}",
        rule="probabilities of the same ids are compared; their tables may be padded differently",
        remedy="VOCABULARY_PATH of the teacher, or a teacher that was trained with this one",
      )

  def reader(self, reader: Reader, rows: np.ndarray) -> Reader:
    """See `Teaching`."""
    return reader

  def soft_targets(self, vocab_size: int) -> LiveTeacher:
    """See `Teaching`."""
    config, num_ids = self._config, min(vocab_size, self.num_ids)
    return LiveTeacher(self.definition, config.fraction_soft, config.temperature, num_ids)


class SavedTeaching:
  """What a teacher said of the first rows of the run's stream. A `Teaching`."""

  params = None

  def __init__(self, config: Distillation):
    self._config, self._cache = config, TeacherCache(str(config.teacher_cache))
    self.k = self._cache.k

  @property
  def fingerprint(self) -> str:
    """Of the checkpoint that was asked."""
    return self._cache.fingerprint

  def record(self) -> dict[str, str]:
    """See `Teaching`."""
    return {
      "path": str(self._cache.path),
      "format": "teacher's cache",
      "fingerprint": self.fingerprint,
    }

  def describe(self) -> str:
    """See `Teaching`."""
    return (
      f"Teacher: not in memory; its {self.k:,} greatest probabilities of {self._cache.num_rows:,} rows, "
      f"from {self._cache.path}"
    )

  def check(self, data: RunData, session: Session) -> None:
    """See `Teaching`: the cache is of the rows that the run reads, and of the teacher it names."""
    config = session.config
    path = self._config.teacher_path
    # It need not be there: the cache is instead of it.
    if path is not None and files.exists(location(path)):
      named = fingerprint(detect.detect(path)[1])
      if named != self.fingerprint:
        raise DataError(
          "The teacher's cache is of another teacher.",
          value=f"{self._cache.path}: {self.fingerprint[:12]}...; {path}: {named[:12]}...",
          rule="TEACHER_PATH and TEACHER_CACHE are of one checkpoint, by its content",
          remedy="TEACHER_PATH of the checkpoint that was asked, or None; or write another cache",
        )
    self._cache.check(
      data.identity,
      self._config.temperature,
      rows_needed=config.total_steps * config.dataset.batch_size,
      vocab_size=session.model.vocab_size,
    )

  def reader(self, reader: Reader, rows: np.ndarray) -> Reader:
    """See `Teaching`."""
    return CachedTeacherReader(reader, self._cache, rows)

  def soft_targets(self, vocab_size: int) -> CachedTeacher:
    """See `Teaching`."""
    config = self._config
    return CachedTeacher(config.fraction_soft, config.temperature, self._cache.num_ids)


def open_teaching(config: Distillation, session: Session) -> Teaching:
  """Returns a run's teacher, from its cache if there is one; see `open_teacher` and `TeacherCache`."""
  return SavedTeaching(config) if config.teacher_cache else open_teacher(config, session)


def open_teacher(config: Distillation, session: Session) -> Teacher:
  """Finds a teacher and checks what can be checked without its arrays.

  Args:
    config: with a `teacher_path`.
    session: of the run, on whose mesh and batch the teacher is asked.

  Raises:
    CheckpointError: if there is no such checkpoint, or if it is damaged.
    MeshError: if the teacher does not divide over the mesh.
  """
  of_run = session.config.dataset.vocabulary_path or embedded_vocabulary_path()
  found = find(str(config.teacher_path), otherwise=of_run)
  teacher = Teacher(found, config, session.mesh)
  teacher.definition.config.check_mesh(
    MeshShape.parse(session.config.mesh_shape),
    session.config.dataset.batch_size,
    session.config.num_microbatches,
  )
  return teacher


def lay_out(
  model: ModelConfig, config: Distillation, mesh: Mesh
) -> tuple[ModelDefinition, PyTree, PyTree]:
  """Returns a teacher without values: for inference; its parameters as they are read, and as kept."""
  definition = define_model(for_inference(model, config.teacher_dtype))
  whole = abstract_params(definition, mesh, PARAMETER_RULES[config.teacher_sharding])
  kept = functools.partial(_kept, dtype=jnp.dtype(config.teacher_dtype))
  return definition, whole, jax.tree_util.tree_map_with_path(kept, whole)


def _kept(path, leaf: jax.ShapeDtypeStruct, dtype: jnp.dtype) -> jax.ShapeDtypeStruct:
  """Returns a parameter in the teacher's type; what a router decides by stays float32."""
  if any(getattr(key, "key", "") == "router" for key in path):
    return leaf
  return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding)
