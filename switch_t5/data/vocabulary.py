# SPDX-License-Identifier: Apache-2.0
"""A SentencePiece vocabulary with T5's sentinels, without TensorFlow.

The ids are those of `seqio.SentencePieceVocabulary(path, extra_ids)`: the pieces of the model file
first, then `extra_ids` sentinels of which `<extra_id_0>` has the highest id, `<extra_id_1>` the next
below it, and so on. The model's embedding table may have more rows; they stand for nothing.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece
from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2

from switch_t5 import errors
from switch_t5.data import file_copies
from switch_t5.storage import files
from switch_t5.storage.location import location

EXTRA_IDS = 100  # T5's
_ModelProto = sentencepiece_model_pb2.ModelProto  # type: ignore[attr-defined]  # made at import


def embedded_vocabulary_path() -> str:
  """Returns the path of the vocabulary that comes with the package."""
  try:
    assets = Path(str(importlib.resources.files("switch_t5.assets")))
  except ModuleNotFoundError:  # run from a source tree that is not installed
    assets = Path(__file__).parents[2] / "data"
  return str(assets / "embedded.model")


def on_this_host(path: str | os.PathLike[str]) -> str:
  """Returns the path of a vocabulary, of an object that of its copy: other libraries read no object."""
  try:
    return os.fspath(file_copies.copy_file(path))
  except FileNotFoundError:  # `Vocabulary` says so
    return os.fspath(path)


class Vocabulary:
  """Text to ids and back.

  Attributes:
    path: of the SentencePiece model file.
    extra_ids: number of sentinels.
    size: number of ids, sentinels included: every id is in [0, size).
    pad_id, eos_id, unk_id: 0, 1, 2 in T5's vocabularies and in the embedded one.
    fingerprint: SHA-256 (hex) of the model file and `extra_ids`: equal if and only if ids mean the
      same.
  """

  def __init__(self, path: str | os.PathLike[str], extra_ids: int = EXTRA_IDS):
    """Reads a SentencePiece model file.

    Raises:
      DataError: there is no such file, it is not a SentencePiece model, or it has no padding or
        end-of-sequence piece.
    """
    self.path, self.extra_ids = os.fspath(path), extra_ids
    content = _read(self.path)
    self.fingerprint = hashlib.sha256(content + f"extra_ids={extra_ids}".encode()).hexdigest()
    self._processor = _processor(self.path, content, extra_ids)
    self.size = self._processor.get_piece_size()
    self.pad_id = self._processor.pad_id()
    self.eos_id = self._processor.eos_id()
    self.unk_id = self._processor.unk_id()
    if self.pad_id != 0 or self.eos_id < 0:
      raise errors.DataError(
        f"The vocabulary {self.path} has no padding piece with id 0, or no end-of-sequence piece.",
        value=f"pad_id {self.pad_id}, eos_id {self.eos_id}",
        rule="T5 pads with id 0 and ends every sequence with EOS",
        remedy="train it with --pad_id=0 --eos_id=1 --unk_id=2 --bos_id=-1.",
      )

  def sentinel_id(self, k: int) -> int:
    """Returns the id of `<extra_id_k>`, for k in [0, extra_ids)."""
    if not 0 <= k < self.extra_ids:
      raise errors.DataError(
        f"The vocabulary {self.path} has no sentinel <extra_id_{k}>.",
        value=k,
        rule=f"it has {self.extra_ids} sentinels, numbered from 0",
        remedy="use fewer spans (shorter sequences), or a vocabulary with more extra_ids.",
      )
    return self.size - 1 - k

  def encode(self, text: str) -> list[int]:
    """Returns the ids of a text, without EOS; `<extra_id_k>` in it becomes the sentinel."""
    return self._processor.encode(text)

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns the ids of each text; sentencepiece spreads long batches over threads."""
    return self._processor.encode(list(texts))

  def piece(self, token: int) -> str:
    """Returns the piece of an id in [0, size), with its sign of a word's beginning."""
    return self._processor.id_to_piece(int(token))

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the text of ids up to the first EOS; sentinels read `<extra_id_k>`.

    Padding is left out; ids that stand for nothing (>= size) are shown as unknown.
    """
    kept = []
    for token in ids:
      if token == self.eos_id:
        break
      if token != self.pad_id:
        kept.append(int(token) if 0 <= token < self.size else self.unk_id)
    return self._processor.decode(kept)


def _read(path: str) -> bytes:
  try:
    return files.read(location(path))
  except OSError as error:
    raise errors.DataError(
      "The vocabulary file cannot be read.",
      value=path,
      rule=f"a readable SentencePiece model file ({error.strerror or error})",
      remedy="correct the path, or leave it out to use the embedded vocabulary.",
    ) from error


def _processor(path: str, content: bytes, extra_ids: int) -> sentencepiece.SentencePieceProcessor:
  """Returns the model with the sentinels added as pieces that are never split, as seqio does."""
  try:
    model = _ModelProto.FromString(content)
    if not model.pieces:
      raise DecodeError("no pieces")
    for k in reversed(range(extra_ids)):
      model.pieces.add(
        piece=f"\N{LOWER ONE EIGHTH BLOCK}<extra_id_{k}>",
        score=0.0,
        type=_ModelProto.SentencePiece.USER_DEFINED,
      )
    return sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
  except (DecodeError, RuntimeError) as error:  # RuntimeError: sentencepiece's, of a piece twice
    raise errors.DataError(
      "The vocabulary file is not a SentencePiece model.",
      value=path,
      rule=f"a model file as sentencepiece's trainer writes it ({error})",
      remedy="give the .model file (not the .vocab file), and copy it again if it was cut short.",
    ) from error
