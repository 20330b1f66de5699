# SPDX-License-Identifier: Apache-2.0
"""The compiled programs of inference, for batches of one size whose lengths come in buckets.

A program is compiled for a bucket once. What becomes of a row is a function of the row and the
program alone: the batch is always full (of padding where there is nothing else) and routing is
dropless, so its companions change nothing, not in the last bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from switch_t5 import batch as features
from switch_t5.decoding.beam_search import beam_search
from switch_t5.decoding.config import DecodingConfig
from switch_t5.decoding.sampling import sample
from switch_t5.decoding.step import Decoded, Limits, log_probabilities
from switch_t5.errors import MeshError, memory_for
from switch_t5.model.cached_decoder import CachedDecoder
from switch_t5.model.definition import ModelDefinition
from switch_t5.sharding.rules import named_sharding
from switch_t5.types import Array, DeviceBatch, HostBatch, PyTree

# A quarter of the encoder's work is padding on average; with finer ones more is compiled than saved.
_SHORTEST = 16


def bucket(length: int) -> int:
  """Returns the length that programs are compiled for: 16, 32, 64, ..."""
  return max(_SHORTEST, 1 << max(length - 1, 0).bit_length())


class Programs:
  """Programs of a model on a mesh.

  Attributes:
    definition: of the model.
    mesh: of the devices.
    batch_size: rows of every batch.
  """

  def __init__(self, definition: ModelDefinition, mesh: Mesh, batch_size: int, eos_id: int):
    """Compiles nothing yet.

    Raises:
      MeshError: if the rows do not divide over the mesh.
    """
    shards = mesh.shape["data"] * mesh.shape["expert"]
    if batch_size < 1 or batch_size % shards:
      raise MeshError(
        "The batch does not divide over the mesh.",
        value=f"{batch_size} rows, {shards} devices along data x expert",
        rule="the rows of a batch are a multiple of the devices along data x expert",
        remedy=f"a batch size of {max(1, round(batch_size / shards)) * shards}",
      )
    self.definition, self.mesh, self.batch_size = definition, mesh, batch_size
    self._eos_id = eos_id
    self._num_ids = definition.config.vocab_size
    self._everywhere = NamedSharding(mesh, PartitionSpec())
    self._rows = named_sharding(mesh, ("batch", None))
    self._decode = functools.lru_cache(maxsize=None)(self._build_decode)
    self._score = jax.jit(self._token_scores, out_shardings=self._everywhere)
    self._logits = jax.jit(self._teacher_forced, out_shardings=self._everywhere)

  def decode(
    self,
    params: PyTree,
    inputs: Sequence[Sequence[int]],
    numbers: Sequence[int] | np.ndarray,
    config: DecodingConfig,
  ) -> Decoded:
    """Decodes answers to at most `batch_size` inputs.

    Args:
      params: of the model.
      inputs: ids, EOS included.
      numbers: of the inputs, which sampling depends on.
      config: how.

    Returns:
      Answers [batch_size, num_return, T] on the host.
    """
    length = bucket(max(map(len, inputs)))
    tokens, segment_ids = self._padded(inputs, length)
    real = np.arange(self.batch_size) < len(inputs)
    all_numbers = np.zeros(self.batch_size, np.uint32)
    all_numbers[: len(inputs)] = numbers
    # What changes the program is what it is looked up by; the rest are its arguments.
    static = dataclasses.replace(config, max_tokens=bucket(config.max_tokens), seed=0)
    with self._running(length, static.max_tokens):
      decoded = self._decode(static)(
        params,
        self._place({"tokens": tokens, "segment_ids": segment_ids}),
        real,
        all_numbers,
        np.int32(config.max_tokens),
        np.uint32(config.seed),
      )
      return jax.device_get(decoded)

  def trace_decode(
    self, params: PyTree, encoder_length: int, config: DecodingConfig
  ) -> jax.stages.Traced:
    """Returns the program that `decode` runs for inputs of a length, from shapes alone.

    Args:
      params: shapes and shardings.
      encoder_length: of the longest input.
      config: how.
    """
    static = dataclasses.replace(config, max_tokens=bucket(config.max_tokens), seed=0)
    rows = (self.batch_size, bucket(encoder_length))
    ids = jax.ShapeDtypeStruct(rows, np.int32, sharding=self._rows)
    return self._decode(static).trace(
      params,
      {"tokens": ids, "segment_ids": ids},
      np.zeros(self.batch_size, bool),
      np.zeros(self.batch_size, np.uint32),
      np.int32(config.max_tokens),
      np.uint32(config.seed),
    )

  def score(
    self, params: PyTree, inputs: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
  ) -> np.ndarray:
    """Returns the log-probability of each target's tokens, float32 [batch_size, T]; 0 on padding."""
    with self._running(*self._lengths(inputs, targets)):
      return np.asarray(self._score(params, self._batch(inputs, targets)))

  def logits(
    self, params: PyTree, inputs: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
  ) -> np.ndarray:
    """Returns the logits of each target's tokens, float32 [batch_size, T, V]."""
    with self._running(*self._lengths(inputs, targets)):
      return np.asarray(self._logits(params, self._batch(inputs, targets)))

  @contextlib.contextmanager
  def _running(self, encoder_length: int, decoder_length: int) -> Iterator[None]:
    """On the mesh; raises ConfigError if the buckets do not fit the memory."""
    memory = memory_for(
      "A batch of texts",
      value=f"{self.batch_size} rows of {encoder_length:,} and {decoder_length:,} tokens",
      remedy="shorter texts or answers, fewer beams, or a smaller batch size",
    )
    with memory, jax.set_mesh(self.mesh):
      yield

  def _build_decode(self, config: DecodingConfig) -> jax.stages.Wrapped:
    """Compiles lazily; `config.max_tokens` is the bucket."""
    length = config.max_tokens

    def decode(params, batch, real, numbers, max_tokens, seed) -> Decoded:
      model = self.definition.build(params)
      segment_ids = batch["segment_ids"]
      encoded, _ = model.encode(batch["tokens"], segment_ids, capacity_factor=None)
      decoder = CachedDecoder(
        model,
        encoded,
        segment_ids,
        max_length=length,
        num_hypotheses=config.num_hypotheses,
      )
      limits = Limits(real, max_tokens, length, self._num_ids, self._eos_id)
      if config.num_beams > 1:
        return beam_search(decoder, decoder.empty_cache, config, limits)
      key = jax.random.key(seed)
      keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers)
      return sample(decoder, decoder.empty_cache, config, limits, keys)

    return jax.jit(decode, out_shardings=self._everywhere)

  def _teacher_forced(self, params: PyTree, batch: DeviceBatch) -> Array:
    logits = self.definition.build(params)(batch, capacity_factor=None).logits
    return logits.reshape(*batch[features.DECODER_TARGET_TOKENS].shape, -1)

  def _token_scores(self, params: PyTree, batch: DeviceBatch) -> Array:
    log_probs = log_probabilities(self._teacher_forced(params, batch), self._num_ids)
    targets = batch[features.DECODER_TARGET_TOKENS][..., None]
    scores = jnp.take_along_axis(log_probs, targets, axis=-1)[..., 0]
    return scores * batch[features.DECODER_LOSS_WEIGHTS]

  def _batch(
    self, inputs: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
  ) -> DeviceBatch:
    """Places a batch of `switch_t5.batch`."""
    encoder_length, decoder_length = self._lengths(inputs, targets)
    tokens, segment_ids = self._padded(inputs, encoder_length)
    answers, answer_ids = self._padded(targets, decoder_length)
    return self._place(
      {
        features.ENCODER_INPUT_TOKENS: tokens,
        features.ENCODER_SEGMENT_IDS: segment_ids,
        features.DECODER_INPUT_TOKENS: features.shift_right(answers, answer_ids),
        features.DECODER_TARGET_TOKENS: answers,
        features.DECODER_SEGMENT_IDS: answer_ids,
        features.DECODER_LOSS_WEIGHTS: answer_ids.astype(np.float32),
      }
    )

  def _lengths(self, *sequences: Sequence[Sequence[int]]) -> list[int]:
    """Returns the bucket of each list of sequences."""
    return [bucket(max(map(len, each))) for each in sequences]

  def _padded(
    self, sequences: Sequence[Sequence[int]], length: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids and segment ids, int32 [batch_size, length]."""
    ids = np.zeros((self.batch_size, length), np.int32)
    segment_ids = np.zeros_like(ids)
    for row, sequence in enumerate(sequences):
      ids[row, : len(sequence)] = sequence
      segment_ids[row, : len(sequence)] = 1
    return ids, segment_ids

  def _place(self, arrays: HostBatch) -> DeviceBatch:
    """Makes global arrays of arrays that every process has."""
    return {
      name: jax.make_array_from_callback(array.shape, self._rows, array.__getitem__)
      for name, array in arrays.items()
    }
