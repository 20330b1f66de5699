# SPDX-License-Identifier: Apache-2.0
"""A model with its vocabulary: texts in, texts and scores out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from switch_t5.data.vocabulary import Vocabulary
from switch_t5.decoding.config import DecodingConfig
from switch_t5.errors import DataError
from switch_t5.inference.programs import Programs, bucket
from switch_t5.model.config import ModelConfig
from switch_t5.model.definition import ModelDefinition
from switch_t5.types import PyTree

GREEDY = DecodingConfig()
Ids = Sequence[int]


class Generated(NamedTuple):
  """An answer as ids.

  Attributes:
    ids: without EOS and what follows it.
    score: its log-probability; of beam search over its length's penalty.
  """

  ids: list[int]
  score: float


class Answer(NamedTuple):
  """An answer as text; `score` and `ids` are those of `Generated`."""

  text: str
  score: float
  ids: list[int]


class TextModel:
  """A model on a mesh. Every process of a run makes one, and calls its methods with the same texts.

  Texts of like length share a batch, which is always `batch_size` rows: an answer depends on the text
  and on `batch_size` only, not on its companions.

  Args:
    definition: of the model.
    params: its values, on the mesh.
    vocabulary: of the texts.
    mesh: of the devices.
    batch_size: rows of a batch, a multiple of the devices along data x expert.

  Raises:
    MeshError: if the rows do not divide over the mesh.
    DataError: if the vocabulary has ids that the model has not.
  """

  def __init__(
    self,
    definition: ModelDefinition,
    params: PyTree,
    vocabulary: Vocabulary,
    mesh: jax.sharding.Mesh,
    *,
    batch_size: int = 8,
  ):
    if vocabulary.size > definition.config.vocab_size:
      raise DataError(
        "The vocabulary is larger than the model's.",
        value=f"{vocabulary.path}: {vocabulary.size} ids; the model has {definition.config.vocab_size}",
        rule="every id of the vocabulary has its row in the model's table",
        remedy="give the vocabulary that the model was trained with",
      )
    self.params, self.vocabulary = params, vocabulary
    self._programs = Programs(definition, mesh, batch_size, vocabulary.eos_id)

  @property
  def config(self) -> ModelConfig:
    """Of the model."""
    return self._programs.definition.config

  @property
  def batch_size(self) -> int:
    """Rows of a batch."""
    return self._programs.batch_size

  def with_params(self, params: PyTree) -> TextModel:
    """Returns the same model with other values; what is compiled is shared."""
    other = object.__new__(TextModel)
    other.params, other.vocabulary, other._programs = params, self.vocabulary, self._programs
    return other

  def encode(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns the ids of each text, with EOS."""
    if isinstance(texts, str):
      raise TypeError("texts is a list of texts, not one text")
    eos = self.vocabulary.eos_id
    return [[*ids, eos] for ids in self.vocabulary.encode_batch(texts)]

  def generate(
    self, texts: Sequence[str], decoding: DecodingConfig = GREEDY, **options: Any
  ) -> list[str]:
    """Returns the best answer to each text.

    Args:
      texts: any number.
      decoding: how.
      **options: attributes of `decoding` to change, e.g. `num_beams=4`.
    """
    return [best.text for best, *_ in self.answers(texts, decoding, **options)]

  def answers(
    self, texts: Sequence[str], decoding: DecodingConfig = GREEDY, **options: Any
  ) -> list[list[Answer]]:
    """Returns `num_return` answers to each text, the best first; arguments as of `generate`."""
    found = self.search(self.encode(texts), dataclasses.replace(decoding, **options))
    return [
      [Answer(self.vocabulary.decode(ids), score, ids) for ids, score in of_text]
      for of_text in found
    ]

  def generate_ids(
    self, inputs: Sequence[Ids], decoding: DecodingConfig = GREEDY
  ) -> list[Generated]:
    """Returns the best answer to each input; ids as the vocabulary gives them, with EOS."""
    return [best for best, *_ in self.search(inputs, decoding)]

  def search(
    self, inputs: Sequence[Ids], decoding: DecodingConfig = GREEDY, first_number: int = 0
  ) -> list[list[Generated]]:
    """Returns `num_return` answers to each input.

    Args:
      inputs: ids, EOS included.
      decoding: how.
      first_number: number of the first input, if these are part of more: samples follow from it.
    """

    def of_batch(rows: np.ndarray) -> list[list[Generated]]:
      batch = [inputs[row] for row in rows]
      decoded = self._programs.decode(self.params, batch, rows + first_number, decoding)
      return [
        [
          Generated(self._until_end(np.asarray(tokens)), float(score))
          for tokens, score in zip(*of_row, strict=True)
        ]
        for of_row in zip(decoded.tokens, decoded.scores, strict=True)
      ]

    return self._in_batches([bucket(len(ids)) for ids in inputs], of_batch)

  def score(self, inputs: Sequence[str], targets: Sequence[str]) -> list[float]:
    """Returns the log-probability of each target, its EOS included, given its input: nats."""
    return self.score_ids(self.encode(inputs), self.encode(targets))

  def score_ids(self, inputs: Sequence[Ids], targets: Sequence[Ids]) -> list[float]:
    """The same of ids, with EOS."""
    run = lambda a, b: self._programs.score(self.params, a, b).sum(axis=-1).tolist()  # noqa: E731
    return self._teacher_forced(inputs, targets, run)

  def logits(self, inputs: Sequence[str], targets: Sequence[str]) -> list[np.ndarray]:
    """Returns the logits of each target's tokens, its EOS included: float32 [tokens, V] each."""
    sources, answers = self.encode(inputs), self.encode(targets)
    run = lambda a, b: list(self._programs.logits(self.params, a, b))  # noqa: E731
    found = self._teacher_forced(sources, answers, run)
    size = self.config.vocab_size
    return [array[: len(ids), :size] for array, ids in zip(found, answers, strict=True)]

  def _teacher_forced(
    self, inputs: Sequence[Ids], targets: Sequence[Ids], run: Callable[..., list[Any]]
  ) -> list[Any]:
    if len(inputs) != len(targets):
      raise DataError(
        "There is not one target for each input.",
        value=f"{len(inputs)} inputs, {len(targets)} targets",
        rule="as many targets as inputs; repeat an input to score several targets",
      )
    lengths = [(bucket(len(i)), bucket(len(t))) for i, t in zip(inputs, targets, strict=True)]
    of_batch = lambda rows: run([inputs[r] for r in rows], [targets[r] for r in rows])  # noqa: E731
    return self._in_batches(lengths, of_batch)

  def _in_batches(
    self, shapes: Sequence[Any], of_batch: Callable[[np.ndarray], list[Any]]
  ) -> list[Any]:
    """Returns what `of_batch` makes of rows of one shape at a time, in the order of the rows."""
    found: list[Any] = [None] * len(shapes)
    for rows in self._batches(shapes):
      for row, result in zip(rows, of_batch(rows), strict=False):  # padding follows the rows
        found[row] = result
    return found

  def _batches(self, shapes: Sequence[Any]) -> Iterator[np.ndarray]:
    by_shape: dict[Any, list[int]] = {}
    for row, shape in enumerate(shapes):
      by_shape.setdefault(shape, []).append(row)
    for shape in sorted(by_shape):
      rows = np.array(by_shape[shape])
      for start in range(0, len(rows), self.batch_size):
        yield rows[start : start + self.batch_size]

  def _until_end(self, tokens: np.ndarray) -> list[int]:
    """Returns the ids before EOS, or before the padding at the end."""
    ids = np.trim_zeros(tokens, "b").tolist()
    eos = self.vocabulary.eos_id
    return ids[: ids.index(eos)] if eos in ids else ids
