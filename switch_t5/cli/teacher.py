# SPDX-License-Identifier: Apache-2.0
"""The teacher of a distillation: found and checked early, laid out beside the student, read once."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from switch_t5.checkpoint.initial import InitialParameters
from switch_t5.cli.load import FoundModel, find, for_inference
from switch_t5.cli.session import Session
from switch_t5.cli.train_config import Distillation
from switch_t5.data.vocabulary import Vocabulary, embedded_vocabulary_path
from switch_t5.errors import DataError
from switch_t5.interop.fingerprint import fingerprint
from switch_t5.model.definition import ModelDefinition, define_model
from switch_t5.sharding.mesh import MeshShape
from switch_t5.sharding.rules import PARAMETER_RULES
from switch_t5.training.state import abstract_params, shardings
from switch_t5.types import PyTree


class Teacher:
  """A model whose probabilities a student learns; nothing of it changes.

  Attributes:
    definition: of the model, for inference.
    abstract: its parameters' shapes, types and shardings.
  """

  def __init__(self, found: FoundModel, config: Distillation, mesh: Mesh):
    self._found = found
    self.definition: ModelDefinition = define_model(
      for_inference(found.config, config.teacher_dtype)
    )
    rules = PARAMETER_RULES[config.teacher_sharding]
    self._whole = abstract_params(self.definition, mesh, rules)
    kept = functools.partial(_kept, dtype=jnp.dtype(config.teacher_dtype))
    self.abstract: PyTree = jax.tree_util.tree_map_with_path(kept, self._whole)

  @property
  def path(self) -> Path:
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
    """Returns what a run's record says of it."""
    return {
      "path": str(self.path),
      "format": self._found.source.format,
      "fingerprint": self.fingerprint,
    }

  def describe(self) -> str:
    """Returns a line: what it is, and the memory that it takes of a device."""
    model, leaves = self.definition.config, jax.tree.leaves(self.abstract)
    count = sum(math.prod(leaf.shape) for leaf in leaves)
    size = sum(
      math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves
    )
    experts = f"Switch, {model.num_experts} experts" if model.num_experts else "dense"
    return (
      f"Teacher: {experts}, {count:,} parameters, {model.activation_dtype}, {size / 1e6:,.1f} MB of "
      f"each device; {self.path} ({self._found.source.format})"
    )

  def check_vocabulary(self, vocabulary: Vocabulary) -> None:
    """Raises DataError if the teacher's ids are not those of the run's data."""
    if self._found.vocabulary.fingerprint != vocabulary.fingerprint:
      raise DataError(
        "The teacher has another vocabulary than the student's data.",
        value=f"{self._found.vocabulary.path}, not {vocabulary.path}",
        rule="probabilities of the same ids are compared; their tables may be padded differently",
        remedy="VOCABULARY_PATH of the teacher, or a teacher that was trained with this one",
      )


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


def _kept(path, leaf: jax.ShapeDtypeStruct, dtype: jnp.dtype) -> jax.ShapeDtypeStruct:
  """Returns a parameter in the teacher's type; what a router decides by stays float32."""
  if any(getattr(key, "key", "") == "router" for key in path):
    return leaf
  return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding)
