# SPDX-License-Identifier: Apache-2.0
"""Attention against a NumPy one, and the masks it takes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from switch_t5.layers.attention import Attention
from switch_t5.layers.masks import causal_mask, segment_mask
from switch_t5.layers.row_key import RowKey

BATCH, QUERIES, KEYS, WIDTH, HEADS, HEAD_SIZE = 2, 5, 7, 12, 3, 4


@pytest.fixture(scope="module")
def attention():
  return make_attention(0.0)


def make_attention(dropout_rate):
  return Attention(
    WIDTH,
    HEADS,
    HEAD_SIZE,
    dropout_rate=dropout_rate,
    scale=4.0,
    dtype=jnp.float32,
    rngs=nnx.Rngs(params=0),
  )


def make_inputs():
  rng = np.random.default_rng(0)
  x, memory = rng.normal(size=(BATCH, QUERIES, WIDTH)), rng.normal(size=(BATCH, KEYS, WIDTH))
  mask = rng.random((BATCH, 1, QUERIES, KEYS)) < 0.6
  mask[..., 0] = True  # every query sees a key
  bias = rng.normal(size=(1, HEADS, QUERIES, KEYS))
  return x, memory, mask, bias


def as_arguments(x, memory, mask, bias):
  flat = (jnp.asarray(a.reshape(-1, WIDTH), jnp.float32) for a in (x, memory))
  return *flat, jnp.asarray(mask), jnp.asarray(bias, jnp.float32)


def numpy_attention(layer, x, memory, mask, bias):
  """One head and one query at a time; head h owns columns [h * k, (h + 1) * k)."""
  q, k, v, out = (
    np.asarray(dense.kernel[...], np.float64)
    for dense in (layer.query, layer.key, layer.value, layer.out)
  )
  y = np.zeros((BATCH, QUERIES, WIDTH))
  for h in range(HEADS):
    columns = slice(h * HEAD_SIZE, (h + 1) * HEAD_SIZE)
    for b in range(BATCH):
      keys, values = memory[b] @ k[:, columns], memory[b] @ v[:, columns]
      for i in range(QUERIES):
        logits = keys @ (x[b, i] @ q[:, columns]) + bias[0, h, i]  # not divided by sqrt(k)
        weights = np.exp(logits) * mask[b, 0, i]
        y[b, i] += (weights / weights.sum()) @ values @ out[columns]
  return y


@pytest.mark.smoke
def test_attention_is_the_numpy_one_with_heads_side_by_side_in_the_kernels(attention):
  inputs = make_inputs()
  y = attention(*as_arguments(*inputs))
  expected = numpy_attention(attention, *inputs).reshape(-1, WIDTH)
  np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_masked_keys_get_no_weight_at_all(attention):
  x, memory, mask, bias = make_inputs()
  mask[..., 3] = False
  y = attention(*as_arguments(x, memory, mask, bias))
  memory[:, 3] = 1e3
  np.testing.assert_array_equal(y, attention(*as_arguments(x, memory, mask, bias)))


def test_a_query_that_sees_nothing_gets_finite_values(attention):
  x, memory, mask, bias = make_inputs()
  assert np.isfinite(attention(*as_arguments(x, memory, np.zeros_like(mask), bias))).all()


def test_one_dropout_mask_is_drawn_for_all_queries(attention):
  x, memory, mask, bias = make_inputs()
  x[:], mask[:], bias[:] = x[:, :1], True, 0.0  # all queries alike
  arguments = as_arguments(x, memory, mask, bias)
  dropped = np.asarray(make_attention(0.5)(*arguments, key=RowKey(jax.random.key(0))))
  by_query = dropped.reshape(BATCH, QUERIES, WIDTH)
  np.testing.assert_allclose(by_query, np.broadcast_to(by_query[:, :1], by_query.shape), rtol=1e-6)
  assert np.abs(dropped - attention(*arguments)).max() > 1e-2
  np.testing.assert_array_equal(make_attention(0.5)(*arguments), attention(*arguments))


def test_attention_stays_within_a_segment_and_off_padding():
  mask = segment_mask(jnp.asarray([[1, 1, 2, 0]]), jnp.asarray([[1, 2, 2, 0, 0]]))
  expected = [[1, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]]
  np.testing.assert_array_equal(mask[0, 0], np.asarray(expected, bool))
  assert mask.shape == (1, 1, 4, 5)


def test_a_causal_mask_shows_no_future():
  np.testing.assert_array_equal(causal_mask(5)[0, 0], np.tri(5, dtype=bool))
