# SPDX-License-Identifier: Apache-2.0
"""What a new run starts from: the parameters of a checkpoint of any format, or a state of ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax

from switch_t5.checkpoint import tree
from switch_t5.checkpoint.initial import ParameterSource, SavedParameters, SavedState
from switch_t5.errors import CheckpointError
from switch_t5.interop import detect
from switch_t5.interop.checkpoint import StoredCheckpoint
from switch_t5.interop.model_shape import deduce_model, expected_shapes
from switch_t5.interop.own_names import stack_parameters
from switch_t5.model.config import ModelConfig
from switch_t5.types import PyTree


def open_parameters(path: str, model: ModelConfig) -> ParameterSource:
  """Opens the checkpoint at a path (`detect.detect`).

  Args:
    path: INITIAL_CHECKPOINT_PATH.
    model: of the run, whose names a checkpoint of the same architecture gets.

  Raises:
    CheckpointError: if there is none, or if it is damaged or cannot be believed.
  """
  kind, found = detect.detect(path)
  if kind == detect.OWN:
    return SavedParameters(found)
  return ForeignParameters(detect.open_checkpoint(found), model)


def open_state(path: str, abstract: PyTree) -> SavedState:
  """Opens the checkpoint at a path, whose optimizer and step a new run goes on with.

  Args:
    path: INITIAL_CHECKPOINT_PATH.
    abstract: see `SavedState`.

  Raises:
    CheckpointError: if it is none of ours, is damaged, or has other arrays than the run.
  """
  kind, found = detect.detect(path)
  if kind != detect.OWN:
    raise CheckpointError(
      "Optimizer and step are taken from checkpoints of ours only.",
      value=f"{found} ({kind})",
      rule="InitialCheckpoint.restore_optimizer is for what a run or `convert import` has saved",
      remedy=f"`switch_t5 convert import --from={path} --to=FOLDER`, then "
      "INITIAL_CHECKPOINT_PATH = 'FOLDER'; or InitialCheckpoint.restore_optimizer = False",
    )
  return SavedState(found, abstract)


class ForeignParameters:
  """The parameters of a checkpoint of another system: a `ParameterSource`.

  Args:
    checkpoint: open.
    model: of the run.
  """

  def __init__(self, checkpoint: StoredCheckpoint, model: ModelConfig):
    self.path, self.format = checkpoint.path, checkpoint.format
    self._arrays = stack_parameters(checkpoint, _model_of(checkpoint, model))
    self.types = tree.array_types(
      {tuple(name.split("/")): array for name, array in self._arrays.items()}
    )

  def load(self, like: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """One array is in the host's memory at a time; every process reads all of it."""
    return {name: self._load(name, target) for name, target in like.items()}

  def _load(self, name: str, target: jax.Array) -> jax.Array:
    array = self._arrays[name].read()
    return jax.make_array_from_callback(array.shape, target.sharding, lambda index: array[index])


def _model_of(checkpoint: StoredCheckpoint, model: ModelConfig) -> ModelConfig:
  """Returns the run's model if the checkpoint is of the same architecture, or what it is of."""
  shapes = checkpoint.parameter_shapes()
  rows = shapes.get("token_embedder/embedding", (0,))[0]
  # The stored table may have rows beyond the vocabulary.
  same = dataclasses.replace(model, vocab_size=rows) if rows else model
  if same.padded_vocab_size == model.padded_vocab_size and expected_shapes(same) == shapes:
    return same
  return deduce_model(shapes, checkpoint.path)
