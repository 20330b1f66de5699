# SPDX-License-Identifier: Apache-2.0
"""Fills the masked spans of held-out text, greedily, and shows them beside the truth."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from switch_t5 import batch as features
from switch_t5.model.definition import ModelDefinition
from switch_t5.types import Array, DeviceBatch, PyTree

FillStep = Callable[[PyTree, DeviceBatch], tuple[Array, Array, Array]]
_SENTINEL = re.compile(r"<extra_id_\d+>")


@dataclasses.dataclass(frozen=True)
class FilledSpans:
  """One example as text.

  Attributes:
    text: the corrupted input, with sentinels in place of the spans.
    spans: (sentinel, truth, prediction) of each span, in the order of the text.
  """

  text: str
  spans: list[tuple[str, str, str]]


def build_greedy_fill(definition: ModelDefinition, mesh: Mesh) -> FillStep:
  """Compiles lazily: (params, batch [microbatches, rows, length]) -> inputs, targets, predictions.

  They are int32 [rows, S], [rows, T] and [rows, T] of the first microbatch, whole on every device.
  One pass of the whole decoder for each target position, so only for a few short examples. Routing
  is dropless, as in all inference.
  """

  def fill(params: PyTree, batch: DeviceBatch) -> tuple[Array, Array, Array]:
    model = definition.build(params)
    row = {name: value[0] for name, value in batch.items()}
    segment_ids = row[features.ENCODER_SEGMENT_IDS]
    encoded, _ = model.encode(row[features.ENCODER_INPUT_TOKENS], segment_ids, capacity_factor=None)
    rows, length = row[features.DECODER_TARGET_TOKENS].shape

    def next_token(position: Array, targets: Array) -> Array:
      inputs = jnp.pad(targets, ((0, 0), (1, 0)))[:, :-1]
      # Positions after this one are not seen by it: the decoder is causal.
      output = model.decode(
        encoded, segment_ids, inputs, jnp.ones_like(inputs), capacity_factor=None
      )
      tokens = output.logits.argmax(axis=-1).astype(jnp.int32).reshape(rows, length)
      return jnp.where(jnp.arange(length)[None, :] == position, tokens, targets)

    none_yet = jnp.zeros((rows, length), jnp.int32)
    predictions = jax.lax.fori_loop(0, length, next_token, none_yet)
    return row[features.ENCODER_INPUT_TOKENS], row[features.DECODER_TARGET_TOKENS], predictions

  return jax.jit(fill, out_shardings=NamedSharding(mesh, PartitionSpec()))


def pair_spans(
  inputs: np.ndarray,
  targets: np.ndarray,
  predictions: np.ndarray,
  *,
  eos_id: int,
  decode: Callable[[list[int]], str],
) -> FilledSpans:
  """Pairs the true and the predicted text of each sentinel of one example.

  Args:
    inputs: int32 [S]. targets, predictions: int32 [T].
    eos_id: what follows it is no text.
    decode: ids to text, sentinels as `<extra_id_k>`.
  """
  text, truth, predicted = (decode(_until(ids, eos_id)) for ids in (inputs, targets, predictions))
  true_spans, predicted_spans = _by_sentinel(truth), _by_sentinel(predicted)
  spans = [
    (sentinel, true_spans.get(sentinel, ""), predicted_spans.get(sentinel, ""))
    for sentinel in _SENTINEL.findall(text)
  ]
  return FilledSpans(text, spans)


def fill_in(text: str, answer: str) -> str | None:
  """Returns a text with `[...]` in place of the sentinels that the answer has; None if it has none."""
  spans = _by_sentinel(answer)
  if not any(sentinel in spans for sentinel in _SENTINEL.findall(text)):
    return None
  return _SENTINEL.sub(
    lambda match: f"[{spans[match[0]]}]" if match[0] in spans else match[0], text
  )


def _until(ids: np.ndarray, eos_id: int) -> list[int]:
  ends = np.flatnonzero(ids == eos_id)
  return ids[: ends[0]].tolist() if ends.size else ids[ids != 0].tolist()


def _by_sentinel(text: str) -> dict[str, str]:
  """Splits `<extra_id_0> a <extra_id_1> b` into {sentinel: text}; the first of a repeated one wins."""
  sentinels, texts = _SENTINEL.findall(text), _SENTINEL.split(text)[1:]
  pairs = zip(reversed(sentinels), reversed(texts), strict=True)
  return {sentinel: span.strip() for sentinel, span in pairs}
