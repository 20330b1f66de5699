# SPDX-License-Identifier: Apache-2.0
"""What the searches ask of a model, and what they give back.

K hypotheses of each of B sequences are decoded side by side. `ancestors` [B, K, T] says whose token of
each time a hypothesis goes on from, so that a model with a cache needs to copy nothing when
hypotheses change places.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from switch_t5.types import Array, PyTree

IMPOSSIBLE = -1e9  # a log-probability; twice of it is still a number


class NextLogits(Protocol):
  """A model: logits of the next token."""

  def __call__(
    self, tokens: Array, time: Array, ancestors: Array, running: Array, cache: PyTree
  ) -> tuple[Array, PyTree]:
    """Returns float32 [B, K, V] and the cache after this position.

    Args:
      tokens: int32 [B, K], the decoder's inputs at `time`; 0 at time 0.
      time: int32 [].
      ancestors: int32 [B, K, T]; at `time` itself a hypothesis is its own.
      running: bool [B, K]; the logits of others are of no account.
      cache: after the positions before.
    """


class Limits(NamedTuple):
  """What bounds a search.

  Attributes:
    real: bool [B], False where a row is padding.
    max_tokens: int32 [], at most `length`.
    length: T.
    num_ids: of the vocabulary.
    eos_id: ends an answer.
  """

  real: Array
  max_tokens: Array
  length: int
  num_ids: int
  eos_id: int


class Decoded(NamedTuple):
  """Answers, those with the best scores first.

  Attributes:
    tokens: int32 [B, n, T], EOS included if there is one, then 0.
    scores: float32 [B, n]: the log-probability; of beam search over its length's penalty.
  """

  tokens: Array
  scores: Array


def log_probabilities(logits: Array, num_ids: int) -> Array:
  """Returns float32 log-softmax over ids below `num_ids`; the others, of padding, are impossible.

  Args:
    logits: float32 [..., V].
    num_ids: of the vocabulary.
  """
  known = jnp.arange(logits.shape[-1]) < num_ids
  known = known.reshape((1,) * (logits.ndim - 1) + known.shape)
  masked = jnp.where(known, logits, -jnp.inf)
  return jnp.maximum(jax.nn.log_softmax(masked, axis=-1), IMPOSSIBLE)
