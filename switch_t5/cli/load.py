# SPDX-License-Identifier: Apache-2.0
"""From a path to a model that is ready to be asked: `switch_t5.load`."""

from __future__ import annotations

import dataclasses
import os

from switch_t5.checkpoint.initial import InitialParameters, ParameterSource, SavedParameters
from switch_t5.checkpoint.manager import CONFIG
from switch_t5.cli import model_file
from switch_t5.data.vocabulary import Vocabulary
from switch_t5.errors import CheckpointError
from switch_t5.inference.text_model import TextModel
from switch_t5.interop import detect
from switch_t5.interop.convert import model_of
from switch_t5.interop.initial import ForeignParameters
from switch_t5.model.config import ModelConfig
from switch_t5.model.definition import define_model
from switch_t5.sharding.mesh import MeshShape, make_mesh
from switch_t5.storage.location import Location
from switch_t5.training.state import abstract_params


def load(
  path: str | os.PathLike[str],
  *,
  vocabulary_path: str | os.PathLike[str] | None = None,
  batch_size: int = 8,
  mesh_shape: tuple[int, int, int] = (1, 1, 1),
  dtype: str | None = None,
) -> TextModel:
  """Opens a checkpoint of any format that `convert` knows.

  Args:
    path: of a checkpoint, or of a run's folder, whose newest checkpoint is meant.
    vocabulary_path: a SentencePiece model; None: the one that a run's configuration names or that
      lies beside the checkpoint.
    batch_size: texts that are worked through at a time.
    mesh_shape: devices along (data, expert, model).
    dtype: of the activations, "float32" or "bfloat16"; None: as the run was trained, and float32 for
      other checkpoints.

  Raises:
    CheckpointError: if there is no checkpoint, or it is damaged, or no vocabulary is known.
    MeshError: if the model does not divide over the mesh.
  """
  found = find(path, vocabulary_path)
  return found.load(batch_size=batch_size, mesh_shape=mesh_shape, dtype=dtype)


@dataclasses.dataclass(frozen=True)
class FoundModel:
  """A checkpoint that was found and understood; its arrays are not read yet.

  Attributes:
    path: of the checkpoint itself.
    config: of its model.
    vocabulary: of its texts.
    source: of its parameters.
  """

  path: Location
  config: ModelConfig
  vocabulary: Vocabulary
  source: ParameterSource

  def load(
    self, *, batch_size: int, mesh_shape: tuple[int, int, int], dtype: str | None
  ) -> TextModel:
    """Reads the arrays; see `load`."""
    definition = define_model(for_inference(self.config, dtype))
    mesh = make_mesh(MeshShape.parse(mesh_shape))
    initial = InitialParameters(self.source, definition.shapes)
    params = initial.load(abstract_params(definition, mesh))
    return TextModel(definition, params, self.vocabulary, mesh, batch_size=batch_size)


def find(
  path: str | os.PathLike[str],
  vocabulary_path: str | os.PathLike[str] | None = None,
  *,
  otherwise: str | os.PathLike[str] | None = None,
) -> FoundModel:
  """Finds a checkpoint and its vocabulary; see `load`.

  Args:
    path: see `load`.
    vocabulary_path: see `load`.
    otherwise: the vocabulary of a checkpoint that says none, if none is given.
  """
  kind, found = detect.detect(path)
  vocabulary, config = None, None
  if kind == detect.OWN:
    config, vocabulary = _own(found)
    source: ParameterSource = SavedParameters(found)
  if config is None:  # what the arrays say
    checkpoint = detect.open_checkpoint(found)
    config = dataclasses.replace(model_of(checkpoint), activation_dtype="float32")
    vocabulary = vocabulary or checkpoint.tokenizer
  if kind != detect.OWN:
    source = ForeignParameters(checkpoint, config)
  words = Vocabulary(_vocabulary_path(found, vocabulary_path or vocabulary or otherwise))
  return FoundModel(found, config, words, source)


def _own(checkpoint: Location) -> tuple[ModelConfig | None, Location | None]:
  """Returns the model and the vocabulary that a checkpoint of ours says, as far as it says them."""
  return model_file.model(checkpoint / CONFIG), model_file.vocabulary_of(checkpoint)


def _vocabulary_path(
  checkpoint: Location, path: str | os.PathLike[str] | None
) -> str | os.PathLike[str]:
  if path is None:
    raise CheckpointError(
      "The checkpoint does not say which vocabulary it was trained with.",
      value=checkpoint,
      rule="texts become ids by a SentencePiece model",
      remedy="vocabulary_path='path/to/spiece.model'; on the command line --vocabulary_path=FILE, or "
      "VOCABULARY_PATH where a gin file is run",
    )
  return path


def for_inference(config: ModelConfig, dtype: str | None) -> ModelConfig:
  """Returns the model with groups of one sequence: nothing is dropped, so they are of no account.

  Args:
    config: of the model.
    dtype: of its activations; None: as it says.
  """
  changes: dict[str, object] = {"group_size": None, "decoder_sequences_per_group": None}
  changes["sequences_per_group"] = 1 if config.num_experts else None
  if dtype is not None:
    changes["activation_dtype"] = dtype
  return dataclasses.replace(config, **changes)  # type: ignore[arg-type]
